import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import isolated_work as work
import pytest

from laser_dist.errors import UserError
from laser_dist.isolation import Crashed, Isolated, OutOfMemory, Stopped
from laser_dist.video.containers import VideoError

pytestmark = pytest.mark.slow  # each test starts processes


@pytest.fixture
def isolated():
    isolated = Isolated(30.0)
    yield isolated
    isolated.close()


def test_calls_run_in_one_other_process(isolated):
    assert isolated.call(work.add, 2, 3) == 5
    first = isolated.call(work.process_id)
    assert first == isolated.call(work.process_id) != os.getpid()


@pytest.mark.parametrize(
    ("kind", "error"), [("user", UserError), ("video", VideoError), ("system", OSError)]
)
def test_an_exception_is_raised_here_and_the_process_survives(isolated, kind, error):
    number = isolated.call(work.process_id)
    with pytest.raises(error) as raised:
        isolated.call(work.complain, kind)
    assert type(raised.value) is error
    if kind == "system":
        assert (raised.value.errno, raised.value.filename) == (5, "clip.264")
    else:
        assert (raised.value.message, raised.value.hint) == ("It failed.", "Fix it.")
    assert isolated.call(work.process_id) == number


def test_an_exception_that_cannot_be_pickled_is_passed_as_text(isolated):
    with pytest.raises(RuntimeError, match="Stubborn: cannot be pickled"):
        isolated.call(work.complain, "stubborn")
    assert isolated.call(work.add, 1, 1) == 2


@pytest.mark.parametrize("level", [logging.INFO, logging.ERROR])
def test_what_the_process_logs_is_logged_here_by_the_settings_of_this_one(
    isolated, caplog, capfd, level
):
    caplog.set_level(level, logger="laser_dist.video")
    assert isolated.call(work.log, "laser_dist.video.vmaf", "no VMAF") == "done"
    found = [(each.name, each.levelname, each.message) for each in caplog.records]
    expected = [("laser_dist.video.vmaf", "WARNING", "no VMAF: 7%")]
    assert found == (expected if level == logging.INFO else [])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE])
def test_a_crashed_process_is_reported_with_step_and_signal(isolated, number):
    before = isolated.call(work.process_id)
    with pytest.raises(Crashed) as crashed:
        isolated.call(work.die, int(number))
    assert crashed.value.step == "second"
    assert crashed.value.how == f"the codec process was killed by {number.name}"
    assert isolated.call(work.process_id) != before


def test_a_process_that_linux_kills_ran_out_of_memory(isolated):
    before = isolated.call(work.process_id)
    with pytest.raises(OutOfMemory, match="the codec process was killed by SIGKILL"):
        isolated.call(work.die, int(signal.SIGKILL))
    assert isolated.call(work.process_id) != before


@pytest.mark.parametrize("kind", ["python", "numpy", "ffmpeg"])
def test_work_that_exceeds_the_memory_limit_is_reported_as_such(kind):
    isolated = Isolated(60.0, memory_bytes=500_000_000)
    assert isolated.call(work.fill, kind, 1 << 20) >= 1 << 20
    before = isolated.call(work.process_id)
    with pytest.raises(OutOfMemory, match="exceeded its memory limit of 0.5 GB") as error:
        isolated.call(work.fill, kind, 1 << 29)
    assert (error.value.step, error.value.needs) == (kind, "0.5 GB of memory")
    assert isolated.call(work.process_id) != before  # what it had taken is free again
    isolated.close()


def test_memory_that_is_missing_below_the_limit_is_no_fault_of_the_work():
    # The machine has no 2^60 bytes; with this limit, it is the machine that refuses them.
    generous = Isolated(60.0, memory_bytes=2**62)
    with pytest.raises(OutOfMemory, match="found no memory") as error:
        generous.call(work.fill, "python", 1 << 60)
    assert error.value.needs == ""
    generous.close()


def test_stop_ends_a_call_of_another_thread_and_all_later_ones():
    isolated = Isolated(60.0)
    number = isolated.call(work.process_id)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(isolated.call, work.hang)
        isolated.stop()
        with pytest.raises(Stopped):
            running.result(timeout=20)
    assert work.exits(number)
    with pytest.raises(Stopped):
        isolated.call(work.add, 1, 1)


def test_a_process_that_exits_is_a_crash(isolated):
    with pytest.raises(Crashed, match="exited with status 3") as crashed:
        isolated.call(work.end, 3)
    assert crashed.value.step == "ending"
    assert isolated.call(work.add, 1, 1) == 2


def test_an_answer_that_cannot_be_pickled_is_a_crash(isolated, capfd):
    with pytest.raises(Crashed, match="exited with status 1"):
        isolated.call(work.answer_what_cannot_be_pickled)
    assert isolated.call(work.add, 1, 1) == 2
    assert "lock" in capfd.readouterr().err


def test_a_process_that_closes_its_pipe_is_stopped():
    isolated = Isolated(30.0, exit_seconds=0.2)
    number = isolated.call(work.process_id)
    with pytest.raises(Crashed, match="closed its pipe"):
        isolated.call(work.close_the_pipe_and_stay)
    assert work.exits(number)
    assert isolated.call(work.add, 1, 1) == 2
    isolated.close()


@pytest.mark.slow
def test_a_step_that_times_out_stops_the_process():
    isolated = Isolated(30.0)
    number = isolated.call(work.process_id)
    isolated.step_seconds = 2.0  # the process has started: no step waits for imports
    with pytest.raises(Crashed) as crashed:
        isolated.call(work.hang)
    assert (crashed.value.step, crashed.value.how) == ("waiting", "timed out after 2 s")
    assert work.exits(number)
    isolated.step_seconds = 30.0
    assert isolated.call(work.add, 1, 1) == 2
    isolated.close()


@pytest.mark.slow
def test_the_time_limit_is_per_step():
    isolated = Isolated(30.0)
    isolated.call(work.process_id)
    isolated.step_seconds = 3.0
    assert isolated.call(work.slow_but_steady, 8, 0.4) == 8  # 3.2 s
    isolated.close()


def test_an_interrupted_call_leaves_no_answer_for_the_next(isolated):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            isolated.call(work.interrupt_parent)
    finally:
        signal.signal(signal.SIGINT, before)
    assert isolated.call(work.add, 1, 1) == 2


def test_closing_twice_stops_the_process_once(isolated):
    number = isolated.call(work.process_id)
    isolated.close()
    isolated.close()
    assert work.exits(number)


@pytest.mark.parametrize("busy", [False, True])
def test_the_process_exits_when_its_parent_is_killed(busy):
    code = (
        "import isolated_work as work, threading\n"
        "from laser_dist.isolation import Isolated\n"
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
        assert work.is_running(number)
        parent.kill()
        parent.wait()
        assert work.exits(number)
