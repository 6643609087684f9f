"""What an exception means to the user: an exit status and one line."""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from laser_dist.errors import UserError

USER_ERROR = 2
OUR_FAULT = 1
MAX_LINE = 400

_FULL = "room on the disk", "Free some space, or name another folder."
_READ_ONLY = "a disk that can be written", "Name another folder."
_DENIED = "permission to use it", "Change its permissions, or name another."
_DISK_RULES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EEXIST: ("a folder, or nothing", "Name another."),
    errno.ENOTDIR: ("folders on the way to it", "Name another folder."),
}
# Beam and Ray hand an error of a worker on as the text of its traceback. These are the ones whose
# message is written for the user.
_CARRIED = re.compile(r"\b(?:UserError|VideoError|LabelFileError|FloatingPointError): (.+)")


@dataclass(frozen=True)
class Verdict:
    """How a command ends after an exception.

    Attributes:
      status: exit status: 2 for what the user can mend, 1 for a fault of ours.
      line: what to say, without a line break.
    """

    status: int
    line: str


def explain(error: BaseException) -> Verdict:
    """Tells a user's error from ours, also where a worker's error comes as text.

    Args:
      error: that ended the command.
    """
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, UserError):
            return Verdict(USER_ERROR, one_line(str(each)))
        if isinstance(each, OSError) and each.errno in _DISK_RULES:
            return Verdict(USER_ERROR, _disk_line(each.errno, each.filename))
    for text in map(str, chain):
        # The last one: a traceback begins with what the worker was doing, and ends with the error.
        for carried in _CARRIED.findall(text)[-1:]:
            return Verdict(USER_ERROR, one_line(_without_beam_step(carried)))
        for number in _DISK_RULES:
            if os.strerror(number) in text:
                return Verdict(USER_ERROR, _disk_line(number, _path_after(number, text)))
    return Verdict(OUR_FAULT, f"{type(error).__name__}: {_gist(str(error))}")


def one_line(text: str) -> str:
    """The text with its line breaks taken out."""
    return " ".join(text.split("\n")).strip()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # one may be raised from itself
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _disk_line(number: int, path: object) -> str:
    expected, next_step = _DISK_RULES[number]
    what = "Writing" if path is None else f"Writing {path}"
    return str(UserError(what, expected, os.strerror(number), next_step))


def _path_after(number: int, text: str) -> str | None:
    """The path that Python's own wording of an OSError names, if it does."""
    match = re.search(re.escape(os.strerror(number)) + r": '([^']+)'", text)
    return match[1] if match else None


def _without_beam_step(text: str) -> str:
    """Beam adds its name of the step; repr of an exception leaves quotes."""
    return re.sub(r" ?\[while running .*", "", text).strip()


def _gist(text: str) -> str:
    """The one line of a message that says most: of a traceback the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "no message"
    line = lines[-1] if lines[0].startswith("Traceback") or len(lines) > 3 else lines[0]
    return line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + "…"
