import errno
import os

import pytest

from laser_dist.commands.faults import MAX_LINE, OUR_FAULT, USER_ERROR, explain
from laser_dist.errors import UserError

USERS = UserError("Clip a", "a video", "a song", "Name another.")
AS_TEXT = "Clip a: expected a video, got a song. Name another."


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_a_users_error_is_told_as_it_is():
    verdict = explain(USERS)
    assert (verdict.status, verdict.line) == (USER_ERROR, AS_TEXT)


def test_a_users_error_is_found_behind_another():
    assert explain(caused(RuntimeError("worker failed"), USERS)).line == AS_TEXT


def test_a_users_error_is_found_in_a_workers_traceback():
    text = (
        'Traceback (most recent call last):\n  File "x.py", line 3, in f\n'
        f"laser_dist.video.containers.VideoError: {AS_TEXT} [while running 'Measure-ptransform-3']"
    )
    verdict = explain(RuntimeError(text))
    assert (verdict.status, verdict.line) == (USER_ERROR, AS_TEXT)


def test_a_loss_that_is_no_number_is_for_the_user_to_mend():
    text = "Traceback\n  ...\nFloatingPointError: Stage image: the loss is nan. Lower the rate."
    verdict = explain(RuntimeError(text))
    assert verdict == explain(RuntimeError(text))
    assert verdict.status == USER_ERROR
    assert verdict.line == "Stage image: the loss is nan. Lower the rate."


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_cannot_be_written_is_told_with_its_path(number):
    error = OSError(number, os.strerror(number), "/out/file")
    for raised in (error, caused(RuntimeError("save failed"), error), RuntimeError(str(error))):
        verdict = explain(raised)
        assert verdict.status == USER_ERROR
        assert verdict.line.startswith("Writing /out/file: expected ")
        assert f"got {os.strerror(number)}. " in verdict.line


def test_other_errors_are_ours_and_short():
    assert explain(ZeroDivisionError("division by zero")).line == (
        "ZeroDivisionError: division by zero"
    )
    verdict = explain(RuntimeError("Traceback\n" + "x" * 5000))
    assert verdict.status == OUR_FAULT
    assert len(verdict.line) < MAX_LINE + 50
    assert explain(OSError(errno.EIO, "Input/output error")).status == OUR_FAULT
    assert explain(KeyError()).line == "KeyError: no message"


def test_never_more_than_one_line():
    error = UserError("Clip", "a video", "this:\n  first\n  second", "Look.")
    for each in (error, RuntimeError("a\nb\nc\nd\ne")):
        assert "\n" not in explain(each).line
