"""What an exception means to the user: an exit status, a message and a hint."""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from laser_dist.errors import HINT, UserError
from laser_dist.wording import printable

USER_ERROR = 2
BUG = 1
MAX_LENGTH = 400  # of the message of a bug; the traceback has all of it
DEBUG_HINT = "Run it again with --debug to see the traceback."

_INSTALL = (
    "A light installation only predicts with exported models. For all commands: pip install "
    "laser-jnd."
)
_FULL = "Free some space, or use another location."
_READ_ONLY = "Use a location that can be written."
_DENIED = "Change its permissions, or use another location."
_DISK_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EEXIST: "Use another location.",
    errno.ENOTDIR: "Use another location.",
    errno.ENAMETOOLONG: "Use a shorter path.",
    errno.ELOOP: "Use a path without links that lead back.",
}
# Beam and Ray pass on a worker's error as the text of its traceback. These are the errors whose
# message is written for the user.
_CARRIED = re.compile(
    r"\b(?:UserError|VideoError|LabelFileError|FloatingPointError): (.+)"
    rf"(?:\n{HINT}(.+))?"
)
_BEAM_STEP = re.compile(r" ?\[while running [^\]]*\]")  # added by Beam to a message


@dataclass(frozen=True)
class Explanation:
    """How a command ends after an exception.

    Attributes:
      status: exit status: 2 for what the user can fix, 1 for a bug.
      message: what is wrong, on one line.
      hint: what to do about it, on one line; may be empty.
    """

    status: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Return the lines to print on standard error."""
        first = f"error: {self.message}"
        if self.status == BUG:
            first = f"internal {first} (this is a bug in laser-jnd)"
        lines = [first, HINT + self.hint] if self.hint else [first]
        return "\n".join(map(printable, lines))


def explain(error: BaseException) -> Explanation:
    """Tell a user's error from a bug, also where a worker's error arrives as text."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, UserError):
            return _user_error(each.message, each.hint)
        if isinstance(each, OSError) and each.errno in _DISK_HINTS:
            return _disk_error(each.errno, each.filename)
        if isinstance(each, ModuleNotFoundError) and (package := _lacking(each.name or "")):
            return _user_error(f"The package {package} is not installed.", _INSTALL)
    for text in map(str, chain):
        # The last one: a traceback starts with what the worker was doing and ends with the error.
        for carried in _CARRIED.findall(text)[-1:]:
            return _user_error(*carried)
        for number in _DISK_HINTS:
            if os.strerror(number) in text:
                return _disk_error(number, _path_after(number, text))
    return Explanation(BUG, f"{type(error).__name__}: {_gist(str(error))}", DEBUG_HINT)


def _lacking(module: str) -> str:
    """Return the package of a missing module; "" if it is part of this project: a bug."""
    package = module.partition(".")[0]
    return "" if package in ("laser_dist", "beam_pipelines", "tfds_builders") else package


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # one may be raised from itself
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _user_error(message: str, hint: str) -> Explanation:
    message, hint = (" ".join(_BEAM_STEP.sub("", text).split()) for text in (message, hint))
    return Explanation(USER_ERROR, message, hint)


def _disk_error(number: int, path: object) -> Explanation:
    verb = "use" if number in (errno.ENAMETOOLONG, errno.ELOOP) else "write"
    what = f"Cannot {verb}" if path is None else f"Cannot {verb} {path}"
    return Explanation(USER_ERROR, f"{what}: {os.strerror(number)}.", _DISK_HINTS[number])


def _path_after(number: int, text: str) -> str | None:
    """Return the path that the text of an OSError names, if any."""
    match = re.search(re.escape(os.strerror(number)) + r": '([^']+)'", text)
    return match[1] if match else None


def _gist(text: str) -> str:
    """Return the most telling line of a message: of a traceback, the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "no message"
    line = lines[-1] if lines[0].startswith("Traceback") or len(lines) > 3 else lines[0]
    return line if len(line) <= MAX_LENGTH else line[: MAX_LENGTH - 1] + "…"
