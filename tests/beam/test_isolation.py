import os
import signal
import subprocess
import sys
import time

import isolated_work as work
import pytest

from beam_pipelines.dataset import isolation
from beam_pipelines.dataset.isolation import Crashed, Isolated
from laser_dist.errors import UserError
from laser_dist.video.containers import VideoError


@pytest.fixture
def isolated():
    isolated = Isolated(30.0)
    yield isolated
    isolated.close()


def is_running(number):
    """Whether a process is there and more than a dead one that nobody has asked for."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_the_end_of(number, seconds=20.0):
    end = time.monotonic() + seconds
    while is_running(number) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_running(number)


def test_calls_answer_from_one_process_that_is_not_this_one(isolated):
    assert isolated.call(work.add, 2, 3) == 5
    first = isolated.call(work.process_id)
    assert first == isolated.call(work.process_id) != os.getpid()


@pytest.mark.parametrize(
    ("kind", "error"), [("user", UserError), ("video", VideoError), ("system", OSError)]
)
def test_what_the_function_raises_is_raised_here_and_the_process_lives(isolated, kind, error):
    number = isolated.call(work.process_id)
    with pytest.raises(error) as raised:
        isolated.call(work.complain, kind)
    assert type(raised.value) is error
    if kind == "system":
        assert (raised.value.errno, raised.value.filename) == (5, "clip.264")
    else:
        assert str(raised.value) == "a: expected b, got c. d"
    assert isolated.call(work.process_id) == number


def test_an_error_that_cannot_be_handed_over_comes_as_its_text(isolated):
    with pytest.raises(RuntimeError, match="Stubborn: of no use"):
        isolated.call(work.complain, "stubborn")
    assert isolated.call(work.add, 1, 1) == 2


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGFPE])
def test_a_process_that_is_killed_tells_the_step_and_the_signal(isolated, number):
    before = isolated.call(work.process_id)
    with pytest.raises(Crashed) as crashed:
        isolated.call(work.die, int(number))
    assert crashed.value.step == "second"
    assert crashed.value.how == f"the codec's process was killed by {number.name}"
    assert isolated.call(work.process_id) != before


def test_a_process_that_ends_by_itself_is_a_crash(isolated):
    with pytest.raises(Crashed, match="ended with status 3") as crashed:
        isolated.call(work.end, 3)
    assert crashed.value.step == "ending"
    assert isolated.call(work.add, 1, 1) == 2


def test_an_answer_that_cannot_be_pickled_is_a_crash(isolated, capfd):
    with pytest.raises(Crashed, match="ended with status 1"):
        isolated.call(work.answer_what_cannot_be_pickled)
    assert isolated.call(work.add, 1, 1) == 2
    assert "lock" in capfd.readouterr().err


def test_a_process_that_cannot_be_heard_any_more_is_ended(isolated, monkeypatch):
    monkeypatch.setattr(isolation, "_END_S", 0.2)
    number = isolated.call(work.process_id)
    with pytest.raises(Crashed, match="closed its pipe"):
        isolated.call(work.close_the_pipe_and_stay)
    assert wait_for_the_end_of(number)
    assert isolated.call(work.add, 1, 1) == 2


def test_a_step_that_takes_too_long_ends_the_process():
    isolated = Isolated(5.0)
    number = isolated.call(work.process_id)
    isolated._step_seconds = 0.3  # the process has started: no step waits for imports now
    with pytest.raises(Crashed) as crashed:
        isolated.call(work.hang)
    assert (crashed.value.step, crashed.value.how) == ("waiting", "not done after 0.3 s")
    assert wait_for_the_end_of(number)
    isolated._step_seconds = 30.0
    assert isolated.call(work.add, 1, 1) == 2
    isolated.close()


def test_the_limit_is_for_each_step_not_for_the_call():
    isolated = Isolated(30.0)
    isolated.call(work.process_id)
    isolated._step_seconds = 1.0
    assert isolated.call(work.slow_but_steady, 6, 0.25) == 6
    isolated.close()


def test_a_call_that_is_interrupted_leaves_no_answer_for_the_next(isolated, monkeypatch):
    isolated.call(work.process_id)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(isolated._connection), "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            isolated.call(work.add, 100, 100)
    assert isolated.call(work.add, 1, 1) == 2


def test_closing_ends_the_process_and_may_be_done_twice(isolated):
    number = isolated.call(work.process_id)
    isolated.close()
    isolated.close()
    assert wait_for_the_end_of(number)


@pytest.mark.parametrize("busy", [False, True])
def test_the_process_ends_with_a_parent_that_is_killed(busy):
    code = (
        "import isolated_work as work, threading\n"
        "from beam_pipelines.dataset.isolation import Isolated\n"
        "isolated = Isolated(60.0)\n"
        "print(isolated.call(work.process_id), flush=True)\n"
        f"isolated.call(work.hang) if {busy} else threading.Event().wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as parent:
        number = int(parent.stdout.readline())
        assert is_running(number)
        parent.kill()
        parent.wait()
        assert wait_for_the_end_of(number)
