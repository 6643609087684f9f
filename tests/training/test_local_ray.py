"""Ray on one machine, when it starts late. The message is Ray's own, from its node.py."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from laser_dist.errors import UserError
from laser_dist.training.ray_entry import TRIES_TO_START, start_locally

TIMED_OUT = (
    "The current node timed out during startup. This could happen because some of the raylet "
    "failed to startup or the GCS has become overloaded."
)


@pytest.fixture
def fake_ray():
    """Return a function that makes a Ray whose first starts leave a process and give up."""
    import ray

    started = []

    def make(late_starts, message=TIMED_OUT):
        def init(*_args, **_options):
            command = [sys.executable, "-c", "input()"]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE))
            if len(started) <= late_starts:
                raise Exception(message)

        return SimpleNamespace(_private=ray._private, init=init), started

    yield make
    for process in started:
        process.kill()
        process.communicate()


def is_running(process):
    return process.poll() is None and psutil.pid_exists(process.pid)


def test_a_late_start_is_repeated_and_its_processes_are_ended(fake_ray):
    ray, started = fake_ray(late_starts=TRIES_TO_START - 1)
    start_locally(ray, 2, {})
    assert len(started) == TRIES_TO_START
    assert [process.wait(10) != 0 for process in started[:-1]] == [True] * (TRIES_TO_START - 1)
    assert is_running(started[-1])


def test_a_machine_on_which_ray_never_starts_in_time_is_named_as_too_busy(fake_ray):
    ray, started = fake_ray(late_starts=TRIES_TO_START)
    with pytest.raises(UserError, match="too busy"):
        start_locally(ray, 2, {})
    for process in started:
        process.wait(10)


def test_any_other_error_of_a_start_is_not_repeated(fake_ray):
    ray, started = fake_ray(late_starts=1, message="no space left on the device")
    with pytest.raises(Exception, match="no space left"):
        start_locally(ray, 2, {})
    assert len(started) == 1
