"""Limits of input that may come from anyone, checked before it takes memory."""

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from laser_dist.errors import UserError
from laser_dist.storage.retries import is_transient, reason


def limit(name: str, default: int) -> int:
    """Return a limit of input: the environment variable `LASER_JND_{name}`, or the default.

    Raises:
      UserError: the variable is not a positive integer.
    """
    variable = f"LASER_JND_{name}"
    text = os.environ.get(variable, str(default))
    if not re.fullmatch(r"[1-9]\d{0,17}", text, re.ASCII):
        raise UserError(
            f"{variable} must be a positive integer, not {text}.", hint=f"Default: {default}."
        )
    return int(text)


def too_large(name: str, size: int, max_bytes: int) -> str:
    """Return a sentence about a file above its limit; "" if it is not."""
    return f"{name} has {size:,} bytes; the limit is {max_bytes:,}." if size > max_bytes else ""


def open_regular(
    path: Path, *, max_bytes: int, hint: str, error: type[UserError] = UserError
) -> BinaryIO:
    """Open a local file that may come from anyone.

    Args:
      path: of a regular file; a pipe could block for ever, and a device has no size.
      max_bytes: largest size.
      hint: hint of the errors.
      error: class of the errors.

    Raises:
      UserError: as `error`: the file is missing, cannot be opened, is not regular or is too large.
      OSError: the disk failed; another attempt may succeed.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as failed:
        if is_transient(failed):
            raise
        missing = isinstance(failed, FileNotFoundError)
        problem = f"{path} does not exist." if missing else f"Cannot open {path}: {reason(failed)}."
        raise error(problem, hint) from failed
    status = os.fstat(descriptor)
    problem = too_large(str(path), status.st_size, max_bytes)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        problem = f"{path} is {kind}."
    if problem:
        os.close(descriptor)
        raise error(problem, hint)
    return open(descriptor, "rb")
