"""Errors that a user can mend."""


class UserError(Exception):
    """Something the user gave, named or lacks; a command prints it as one line and exits with 2.

    Attributes:
      what: what failed, and for which file, clip or setting.
      expected: the rule that was not met.
      got: the value that was found instead.
      next_step: what the user can do about it.
    """

    def __init__(self, what: str, expected: str, got: str, next_step: str) -> None:
        # All fields reach the base class, so the error survives pickling from a worker.
        super().__init__(what, expected, got, next_step)
        self.what = what
        self.expected = expected
        self.got = got
        self.next_step = next_step

    def naming(self, other: str, place: str) -> "UserError":
        """The same error with one place called by another name, as the user knows it."""
        fields = (self.what, self.expected, self.got, self.next_step)
        return UserError(*(text.replace(other, place) for text in fields))

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, got {self.got}. {self.next_step}"
