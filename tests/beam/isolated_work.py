"""Functions that a codec process calls in the tests, and whether such a process runs."""

import os
import signal
import threading
import time

from laser_dist.errors import UserError
from laser_dist.video.containers import VideoError


class Stubborn(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


def add(one, other, report):
    report("adding")
    return one + other


def process_id(report):
    return os.getpid()


def complain(kind, report):
    report("complaining")
    raise {
        "user": UserError("It failed.", hint="Fix it."),
        "video": VideoError("It failed.", hint="Fix it."),
        "system": OSError(5, "reason", "clip.264"),
        "stubborn": Stubborn("cannot be pickled"),
    }[kind]


def die(number, report):
    report("first")
    report("second")
    os.kill(os.getpid(), number)
    time.sleep(60)


def end(status, report):
    report("ending")
    os._exit(status)


def hang(report):
    report("first")
    report("waiting")
    time.sleep(60)


def slow_but_steady(steps, seconds, report):
    for step in range(steps):
        report(step)
        time.sleep(seconds)
    return steps


def interrupt_parent(report):
    report("interrupting")
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


def close_the_pipe_and_stay(report):
    report("closing")
    os.closerange(3, 64)
    time.sleep(60)


def answer_what_cannot_be_pickled(report):
    report("answering")
    return threading.Lock()


def is_running(number):
    """Return whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def exits(number, seconds=20.0):
    """Wait for a process to exit; return whether it did."""
    end = time.monotonic() + seconds
    while is_running(number) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_running(number)
