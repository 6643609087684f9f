"""Retries with growing pauses, and which errors are worth one."""

import errno
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSES_S = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)
"""Pauses between attempts: five minutes in total."""

_PERMANENT_NUMBERS = {
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
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENXIO,
}
# pyarrow reports what a bucket answered as text only. Among the statuses below 500, 408 (timeout)
# and 429 (too many requests) pass.
_PERMANENT_TEXT = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|SIGNATURE_DOES_NOT_MATCH|INVALID_|UNRECOGNIZED_CLIENT"
    r"|MISSING_AUTHENTICATION_TOKEN|METHOD_NOT_ALLOWED)"
    r"|google::cloud::Status\((NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT"
    r"|FAILED_PRECONDITION|UNIMPLEMENTED)"
    r"|HTTP status (code: )?(30\d|40[0-7]|41\d)|Bucket '[^']*' not found"
)
# Also what a service answers for seconds after a right was granted or a key was renewed.
_DENIED = re.compile(r"AWS Error ACCESS_DENIED|\(PERMISSION_DENIED|HTTP status (code: )?403")
_NUM_RETRIES_IF_DENIED = 3

logger = logging.getLogger(__name__)


def retrying(
    work: Callable[[], T], what: str = "storage", *, sleep: Callable[[float], None] = time.sleep
) -> T:
    """Return what `work` returns, and repeat it after a pause while it raises a transient error.

    A service that denies access is asked three times more. Each failure is logged as a warning.

    Args:
      work: can be repeated from its start.
      what: name of the file or folder, for the log.
      sleep: waits for a number of seconds.

    Raises:
      OSError: of the last attempt, or of the first one if the error is not transient.
    """
    for number, pause in enumerate(PAUSES_S):
        try:
            return work()
        except OSError as error:
            asks_again = number < _NUM_RETRIES_IF_DENIED and _DENIED.search(str(error))
            if not asks_again and not is_transient(error):
                raise
            logger.warning("%s: %s; retrying in %s s", what, reason(error), pause)
            sleep(pause)
    return work()


def is_transient(error: OSError) -> bool:
    """Return whether another attempt may succeed."""
    return error.errno not in _PERMANENT_NUMBERS and not _PERMANENT_TEXT.search(str(error))


def reason(error: BaseException) -> str:
    """Return in a few words what the system or the bucket's service answered."""
    if isinstance(error, OSError) and error.strerror and "google::" not in error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if status := re.search(r"AWS Error (\w+) .*operation: No response body", text):
        return status[1].lower().replace("_", " ")
    patterns = (
        r"AWS Error \w+ .*operation: (.+?)(?: \(Request ID.*)?$",
        r"The underlying error message was: (.+?) error_info=",
        r"gcloud-cpp\.retry\.original-message=([^}]+)",
        r"with a last message of (.+?)(?: error_info=|$)",
    )
    found = next(filter(None, (re.search(pattern, text) for pattern in patterns)), None)
    return found[1].rstrip(".") if found else text.rstrip(".") or type(error).__name__
