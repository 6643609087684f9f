"""Functions that a codec process calls in the tests, and whether such a process runs."""

import logging
import os
import signal
import threading
import time
from pathlib import Path

import av
import numpy as np

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


def fill(kind, num_bytes, report):
    """Take memory, as Python, NumPy or FFmpeg do; return how much."""
    report(kind)
    if kind == "ffmpeg":
        side = int((num_bytes / 3) ** 0.5)
        return av.VideoFrame(side + 64, side + 64, "rgb24").planes[0].buffer_size
    taken = bytearray(num_bytes) if kind == "python" else np.zeros(num_bytes, np.uint8)
    return len(taken)


def die_once(number, folder, report):
    """Be killed in the first call; return how many other calls ran when the second one did."""
    report("started")
    mine = Path(folder) / str(os.getpid())
    mine.touch()
    try:
        if number == 0:
            first = Path(folder) / "first"
            if not first.exists():
                first.touch()
                mine.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            return sum(1 for path in Path(folder).iterdir() if path.name.isdecimal()) - 1
        time.sleep(0.5)
        return 0
    finally:
        mine.unlink(missing_ok=True)


def end(status, report):
    report("ending")
    os._exit(status)


def hang(report):
    report("first")
    report("waiting")
    time.sleep(60)


def wait_then_fail(seconds, report):
    report("waiting")
    time.sleep(seconds)
    raise UserError("It failed.")


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


def log(name, text, report):
    logging.getLogger(name).warning("%s: %d%%", text, 7)
    return "done"
