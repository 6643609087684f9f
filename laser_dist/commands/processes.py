"""Stops every process that a command has started, however the command ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from laser_dist.storage.temporary import remove_open_folders

if TYPE_CHECKING:
    import psutil

SECONDS_TO_STOP = 3.0
SECONDS_TO_BE_KILLED = 1.0
SECONDS_TO_CLEAN_UP = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seen on a busy machine: when Ray's servers stop first, the process that started them exits with
# status 1 before it has cleaned up.
_SUSPENDED = {"gcs_server", "raylet"}
# Servers of Ray that hold nothing to clean up, but take seconds to react to SIGTERM.
_KILLED = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
_PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; all processes that the command had started have been stopped.

    Attributes:
      status: exit status by the shells' convention, 128 + the number of the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """While the block runs, let SIGINT and SIGTERM stop all descendants and raise `Stopped`.

    Servers of Ray are suspended instead; the caller has to kill them before it exits.

    Workers stop before the stack unwinds, so that none writes into a folder that is being removed.
    If the unwinding hangs (a library may wait for its workers), the process exits all the same. A
    library that replaces `Stopped` by another error, such as a failed import, is overruled.
    """
    received: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        received.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not interrupt this
        _exit_after(SECONDS_TO_STOP + SECONDS_TO_CLEAN_UP, 128 + number)
        stop_descendants(suspended=_SUSPENDED)
        raise Stopped(number)

    before = {each: signal.signal(each, stop) for each in _SIGNALS}
    try:
        yield
    except Exception as error:
        if received:
            raise Stopped(received[0]) from error
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def adopt_orphans() -> None:
    """Become the parent of each descendant whose own parent exits, so that none is lost sight of.

    Ray's agents run for seconds after the server that started them. On Linux only.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def claim_signals() -> None:
    """Take SIGINT and SIGTERM back from a library whose C++ code replaced Python's handlers.

    Ray does so for SIGTERM when it starts, from any thread, and its handler aborts this process
    some seconds later. Call this in the main thread.
    """
    for each in _SIGNALS:
        signal.signal(each, signal.getsignal(each))


def stop_descendants(
    seconds: float = SECONDS_TO_STOP, *, suspended: Collection[str] = frozenset()
) -> None:
    """Ask all processes below this one to stop; kill those that still run after some seconds.

    Args:
      seconds: time for them to stop.
      suspended: names of processes that are suspended instead.
    """
    import psutil

    asked: set[psutil.Process] = set()
    kept: set[psutil.Process] = set()
    deadline = time.monotonic() + seconds
    while True:
        # A process whose parent exits first is no descendant any more, but has been asked.
        alive = {each for each in asked.union(_children()) - kept if _is_alive(each)}
        for process in alive - asked:
            with suppress(psutil.NoSuchProcess):
                if (name := process.name()) in suspended:
                    process.suspend()
                    kept.add(process)
                elif name in _KILLED:
                    process.kill()
                else:
                    process.terminate()
        alive -= kept
        if not alive or time.monotonic() >= deadline:
            break
        asked |= alive
        time.sleep(0.05)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=SECONDS_TO_BE_KILLED)  # a large process takes a moment


def kill_descendants() -> None:
    """Kill all processes below this one, which exits next, without waiting for their end."""
    import psutil

    for process in _children():
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _children() -> list[psutil.Process]:
    import psutil

    return psutil.Process().children(recursive=True)


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _exit_after(seconds: float, status: int) -> None:
    """Exit this process after some seconds, whatever it is doing then."""

    def stop() -> None:
        kill_descendants()
        remove_open_folders()
        os._exit(status)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
