"""Errors that the user can fix."""

import difflib
from collections.abc import Iterable

HINT = "hint: "  # before the hint, where an error is printed


class UserError(Exception):
    """An error in what the user gave or in the user's environment; commands exit with status 2.

    A command prints it as `error: <message>` and, if there is a hint, `hint: <hint>`.

    Attributes:
      message: one sentence that names the file, option or value and what is wrong with it.
      hint: what to do about it, as one imperative sentence; empty if the message says it all.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)  # both, so that the error survives pickling from a worker
        self.message = message
        self.hint = hint

    def naming(self, other: str, place: str) -> "UserError":
        """Return the same error with one location replaced by the name that the user gave it."""
        return UserError(*(text.replace(other, place) for text in (self.message, self.hint)))

    def __str__(self) -> str:
        # On a separate line, the hint can be found in the text of a worker's traceback.
        return f"{self.message}\n{HINT}{self.hint}" if self.hint else self.message


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `Did you mean "x"?` with the most similar of the known names, or "" if none is."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f'Did you mean "{found[0]}"?' if found else ""
