"""Work that a store may refuse for a while: done again, later and later."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSES_S = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)
"""Between one try and the next: five minutes in all."""
# What waiting does not mend.
_FINAL = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EINVAL,
}


def retrying(
    work: Callable[[], T],
    *,
    told: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What `work` returns, tried again with growing pauses where a store fails.

    Args:
      work: safe to be done again from its start.
      told: given a line for people at each failure.
      sleep: waits so many seconds.

    Raises:
      OSError: of the last try; at once where the store is full, or lacks what is asked for, or
        forbids it: waiting would not help.
    """
    for pause in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if not may_pass(error):
                raise
            told(f"the store failed ({first_line(error)}), tried again in {pause} s")
            sleep(pause)
    return work()


def may_pass(error: OSError) -> bool:
    """Whether another try may succeed."""
    return error.errno not in _FINAL


def first_line(error: BaseException) -> str:
    """An error's first line of text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
