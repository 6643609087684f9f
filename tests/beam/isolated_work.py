"""Functions that a codec's process calls in the tests: each fails in another way."""

import os
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
        "user": UserError("a", "b", "c", "d"),
        "video": VideoError("a", "b", "c", "d"),
        "system": OSError(5, "as the system puts it", "clip.264"),
        "stubborn": Stubborn("of no use"),
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


def close_the_pipe_and_stay(report):
    report("closing")
    os.closerange(3, 64)
    time.sleep(60)


def answer_what_cannot_be_pickled(report):
    report("answering")
    return threading.Lock()
