import errno
import os

import pytest

from laser_dist.commands.faults import BUG, DEBUG_HINT, MAX_LENGTH, USER_ERROR, Explanation, explain
from laser_dist.errors import UserError

ERROR = UserError("File a.txt is not a video.", hint="Choose another file.")
EXPLAINED = Explanation(USER_ERROR, ERROR.message, ERROR.hint)


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_a_user_error_is_printed_as_an_error_and_a_hint():
    assert explain(ERROR) == EXPLAINED
    assert str(EXPLAINED) == "error: File a.txt is not a video.\nhint: Choose another file."
    assert str(explain(UserError("No clip given."))) == "error: No clip given."


def test_a_user_error_is_found_behind_another_error():
    assert explain(caused(RuntimeError("worker failed"), ERROR)) == EXPLAINED


@pytest.mark.parametrize("step", ["", " [while running 'Measure-ptransform-3']"])
def test_a_user_error_is_found_in_the_traceback_of_a_worker(step):
    text = (
        'Traceback (most recent call last):\n  File "x.py", line 3, in f\n'
        f"laser_dist.video.containers.VideoError: {ERROR.message}{step}\nhint: {ERROR.hint}{step}"
    )
    assert explain(RuntimeError(text)) == EXPLAINED


def test_a_loss_that_is_not_finite_is_a_user_error():
    text = "Traceback\n  ...\nFloatingPointError: Stage image: the loss is nan. Lower the rate."
    assert explain(RuntimeError(text)) == Explanation(
        USER_ERROR, "Stage image: the loss is nan. Lower the rate."
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_location_that_cannot_be_written_is_named(number):
    error = OSError(number, os.strerror(number), "/out/file")
    for raised in (error, caused(RuntimeError("save failed"), error), RuntimeError(str(error))):
        explanation = explain(raised)
        assert explanation.status == USER_ERROR
        assert explanation.message == f"Cannot write /out/file: {os.strerror(number)}."
        assert explanation.hint


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ModuleNotFoundError) as caught:
        import no_such_package.part  # noqa: F401
    explanation = explain(caught.value)
    assert explanation.status == USER_ERROR
    assert explanation.message == "The package no_such_package is not installed."
    assert "pip install laser-jnd" in explanation.hint
    with pytest.raises(ModuleNotFoundError) as caught:
        import laser_dist.no_such_module  # noqa: F401
    assert explain(caught.value).status == BUG


def test_other_errors_are_bugs_and_their_message_is_short():
    assert str(explain(ZeroDivisionError("division by zero"))) == (
        "internal error: ZeroDivisionError: division by zero (this is a bug in laser-jnd)\n"
        f"hint: {DEBUG_HINT}"
    )
    explanation = explain(RuntimeError("Traceback\n" + "x" * 5000))
    assert explanation.status == BUG
    assert len(explanation.message) < MAX_LENGTH + 50
    assert explain(OSError(errno.EIO, "Input/output error")).status == BUG
    assert explain(KeyError()).message == "KeyError: no message"


def test_a_message_has_one_line():
    error = UserError("The clip is broken:\n  first\n  second", hint="Look\nhere.")
    for each in (error, RuntimeError("a\nb\nc\nd\ne")):
        explanation = explain(each)
        assert "\n" not in explanation.message + explanation.hint
