import errno
import logging

import pytest

from laser_dist.storage.retries import PAUSES_S, is_transient, reason, retrying


def failing(times, error):
    """Return work that fails `times` times, and the list of its attempts."""
    attempts = []

    def work():
        attempts.append(1)
        if len(attempts) <= times:
            raise error
        return "done"

    return work, attempts


@pytest.mark.parametrize("times", [0, 1, len(PAUSES_S)])
def test_pauses_grow_until_it_succeeds(times):
    slept = []
    work, attempts = failing(times, ConnectionError("reset"))
    assert retrying(work, sleep=slept.append) == "done"
    assert slept == list(PAUSES_S[:times])
    assert slept == sorted(slept)
    assert len(attempts) == times + 1


def test_it_gives_up_with_the_last_error():
    slept = []
    work, attempts = failing(99, TimeoutError("too slow"))
    with pytest.raises(TimeoutError, match="too slow"):
        retrying(work, sleep=slept.append)
    assert len(attempts) == len(PAUSES_S) + 1
    assert sum(slept) > 240


def test_each_failure_is_logged_as_a_warning(caplog):
    work, _ = failing(1, ConnectionError("reset"))
    with caplog.at_level(logging.INFO):
        retrying(work, "s3://bucket/file", sleep=lambda _: None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "s3://bucket/file: reset; retrying in 1 s"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOENT])
def test_an_error_that_waiting_does_not_fix_is_raised_at_once(number):
    work, attempts = failing(1, OSError(number, "no"))
    with pytest.raises(OSError, match="no"):
        retrying(work, sleep=lambda _: pytest.fail("waited"))
    assert len(attempts) == 1


def test_other_errors_are_not_retried():
    work, attempts = failing(1, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        retrying(work)
    assert len(attempts) == 1


# As pyarrow 25 raised them: at a server that refused or did not answer, and without network.
GOOGLE = (
    "google::cloud::Status({0}: Retry policy exhausted, with a last message of {1} error_info="
    "{{reason=, domain=, metadata={{gcloud-cpp.retry.reason=x, "
    "gcloud-cpp.retry.original-message={1}}}}})"
)
NO_SERVER = "PerformWork() - CURL error [7]=Could not connect to server"
NO_BUCKET = (
    "When initiating multiple part upload for key 'x' in bucket 'none': AWS Error NO_SUCH_BUCKET "
    "during CreateMultipartUpload operation: The specified bucket does not exist (Request ID: egNq)"
)
DENIED = (
    "When getting information for key 'x' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject "
    "operation: No response body."
)
UNREACHABLE = (
    "When resolving region for bucket 'b': AWS Error NETWORK_CONNECTION during HeadBucket "
    "operation: curlCode: 6, Could not resolve hostname"
)


@pytest.mark.parametrize(
    ("text", "passes", "told"),
    [
        (NO_BUCKET, False, "The specified bucket does not exist"),
        (DENIED, False, "access denied"),
        ("AWS Error UNKNOWN (HTTP status 403) during X operation: No", False, None),
        (UNREACHABLE, True, "curlCode: 6, Could not resolve hostname"),
        ("AWS Error UNKNOWN (HTTP status 429) during X operation: Slow", True, None),
        ("AWS Error UNKNOWN (HTTP status 503) during X operation: Busy", True, None),
        (GOOGLE.format("UNAVAILABLE", NO_SERVER), True, NO_SERVER),
        (GOOGLE.format("PERMISSION_DENIED", "Not yours"), False, "Not yours"),
        (GOOGLE.format("NOT_FOUND", "HTTP status code: 404"), False, "HTTP status code: 404"),
    ],
)
def test_what_a_bucket_answers_is_told_apart_by_its_text(text, passes, told):
    assert is_transient(OSError(text)) == passes
    if told is not None:
        assert reason(OSError(text)) == told
