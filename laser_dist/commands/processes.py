"""Ends every process that a command started, however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS_TO_END = 3.0
SECONDS_TO_BE_KILLED = 1.0
SECONDS_TO_CLEAR_UP = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or a request to end; all processes that were started have been ended.

    Attributes:
      status: exit status by the shell's custom, 128 + the signal's number.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM end all descendants and raise `Stopped`.

    Workers end before the stack unwinds, so that none writes into a folder that is being removed.
    Should the unwinding hang (a library may wait for its workers), the process ends all the same.
    """

    def stop(number: int, _frame: Any) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not interrupt this
        end_in(SECONDS_TO_END + SECONDS_TO_CLEAR_UP, 128 + number)
        end_descendants()
        raise Stopped(number)

    before = {each: signal.signal(each, stop) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def claim_signals() -> None:
    """Takes SIGINT and SIGTERM back where a library's C++ has put its own handler over Python's.

    Ray does so for SIGTERM when it starts, from whatever thread, and its handler aborts this
    process some seconds later. To be called in the main thread.
    """
    for each in _SIGNALS:
        signal.signal(each, signal.getsignal(each))


def end_in(seconds: float, status: int) -> None:
    """Ends this process after some seconds, whatever it is doing then."""

    def end() -> None:
        end_descendants(0.0)
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def end_descendants(seconds: float = SECONDS_TO_END) -> None:
    """Asks all processes below this one to end; kills those that have not after some seconds.

    A process whose parent ends first is not lost from sight: it was seen while it had one.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + seconds
    while True:
        alive = living_descendants(os.getpid()) | {pid for pid in asked if _is_alive(pid)}
        if not alive or time.monotonic() >= deadline:
            break
        _send(alive - asked, signal.SIGTERM)
        asked |= alive
        time.sleep(0.05)
    _send(alive, signal.SIGKILL)
    deadline = time.monotonic() + SECONDS_TO_BE_KILLED
    while any(map(_is_alive, alive)) and time.monotonic() < deadline:
        time.sleep(0.02)  # a large process is not gone at once


def living_descendants(pid: int) -> set[int]:
    """Process ids of all children of a process, and theirs; those that have ended do not count."""
    return descendants(pid, _parents())


def descendants(pid: int, parents: Mapping[int, int]) -> set[int]:
    """Every process below `pid`, given each process's parent."""
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level} - found - {pid}
        found |= level
    return found


def _parents() -> dict[int, int]:
    """Parent of every living process."""
    if Path("/proc/self/stat").exists():
        folders = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
        stats = {int(folder.name): _stat(int(folder.name)) for folder in folders}
        return {pid: stat[1] for pid, stat in stats.items() if stat and stat[0] not in "ZX"}
    listing = subprocess.Popen(  # macOS has no /proc
        ["ps", "-A", "-o", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True
    )
    text, _ = listing.communicate(timeout=5)
    rows = [line.split() for line in text.splitlines()]
    return {
        int(pid): int(parent)
        for pid, parent, state in rows
        if int(pid) != listing.pid and state[0] != "Z"
    }


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, parent) of a process on Linux; None where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name before it stands in brackets and may hold anything, brackets too.
    state, parent = text[text.rindex(")") + 2 :].split()[:2]
    return state, int(parent)


def _is_alive(pid: int) -> bool:
    if sys.platform == "linux":
        stat = _stat(pid)
        return stat is not None and stat[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _send(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it has ended meanwhile
