"""Lease of a run: one process trains it at a time.

The process that trains a run writes `RUN/lease.json` again every few seconds: its heartbeat. A
second process is refused while the heartbeat continues, and claims a lease whose owner is lost.
"""

import contextlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.storage.files import read_bytes, remove, write_text
from laser_dist.storage.locations import join
from laser_dist.storage.run_files import RunFiles, remove_unfinished

LEASE_FILE = "lease.json"
_FILE_CHARACTERS = 400
HEARTBEAT_S = 10.0
# A shared folder may show a heartbeat up to a minute late.
EXPIRES_S = 90.0
# Clocks of two machines differ, but not by so much: an older lease is claimed without waiting.
ABANDONED_S = 3600.0
SECONDS_BETWEEN_LOOKS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lease:
    """A process that trains a run. Times are seconds since 1970, by the clock of its host.

    Attributes:
      host: name of its machine or container.
      pid_namespace: number of the namespace of `pid`; containers can share a host's name.
      pid: number of the process.
      process_start_s: start of the process.
      since_s: start of the lease.
      heartbeat_s: last heartbeat.
    """

    host: str
    pid_namespace: int
    pid: int
    process_start_s: float
    since_s: float
    heartbeat_s: float

    @property
    def owner(self) -> tuple[str, int, int, float]:
        """The process that holds the lease."""
        return self.host, self.pid_namespace, self.pid, self.process_start_s

    def __str__(self) -> str:
        """Name the owner."""
        return f"process {self.pid} on host {self.host}"


def free(store: RunFiles) -> None:
    """Remove the lease of a process that has ended, if a run has one.

    The lease of another machine is free if no heartbeat comes for `EXPIRES_S`: the two clocks are
    not compared.

    Args:
      store: storage of the run.

    Raises:
      UserError: another process trains the run, or the storage fails.
    """
    found = _read(store)
    if found is None:
        return
    if not _has_ended(store, found):
        _await_expiry(store, found)
    last = _time_text(found.heartbeat_s)
    logger.info("The run is claimed from %s, whose last heartbeat was at %s", found, last)
    remove(_location(store))


@contextmanager
def leased(store: RunFiles) -> Iterator[Callable[[], None]]:
    """Hold a run's lease while the block runs.

    Args:
      store: storage of the run.

    Yields:
      A function that raises a `UserError` if another process has claimed the run meanwhile, which
      it may after a long pause of this one.

    Raises:
      UserError: as for `free`.
    """
    free(store)
    remove_unfinished(store.local)  # nobody else writes here now
    own = Lease(*_this_process(), since_s=time.time(), heartbeat_s=time.time())
    _write(store, own)
    over = threading.Event()
    lost: list[Lease] = []

    def beat() -> None:
        while not over.wait(HEARTBEAT_S) and not lost:
            # A storage that fails for a while must not end the training.
            with contextlib.suppress(OSError, UserError):
                found = _read(store)
                if found is None or found.owner == own.owner:
                    _write(store, replace(own, heartbeat_s=time.time()))
                else:
                    lost.append(found)

    def check() -> None:
        if lost:
            raise UserError(
                f"{lost[0]} has claimed {store.location}, because this process had no heartbeat "
                f"for more than {EXPIRES_S:.0f} s.",
                hint="Let that process train the run, or stop it and run the same command again.",
            )

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError, UserError):
            found = _read(store)
            if found is not None and found.owner == own.owner:
                remove(_location(store))


def _has_ended(store: RunFiles, lease: Lease) -> bool:
    """Return whether the owner is known to have ended.

    Raises:
      UserError: the owner is known to run.
    """
    import psutil

    host, namespace, pid, _ = _this_process()
    if (lease.host, lease.pid_namespace) != (host, namespace):
        return time.time() - lease.heartbeat_s > ABANDONED_S
    if lease.pid == pid:  # of a container that has been started again
        return True
    try:
        process = psutil.Process(lease.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        if abs(process.create_time() - lease.process_start_s) < 2:
            raise _refusal(store, lease)
    except psutil.NoSuchProcess:
        return True
    return False


def _await_expiry(store: RunFiles, lease: Lease) -> None:
    """Wait until a lease has expired.

    Raises:
      UserError: there was a heartbeat.
    """
    logger.info("Waiting up to %.0f s for a heartbeat of %s", EXPIRES_S, lease)
    deadline = time.monotonic() + EXPIRES_S
    while time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        found = _read(store)
        if found is None:
            return
        if found != lease:
            raise _refusal(store, found)


def _refusal(store: RunFiles, lease: Lease) -> UserError:
    return UserError(
        f"{store.location} is being trained by {lease} since {_time_text(lease.since_s)}.",
        hint="Wait for that process, stop it, or train into another folder.",
    )


def _location(store: RunFiles) -> str:
    return str(join(store.location, LEASE_FILE))


def _read(store: RunFiles) -> Lease | None:
    try:
        return Lease(**json.loads(read_bytes(_location(store))))
    except (FileNotFoundError, ValueError, TypeError):  # none, or damaged
        return None


def _write(store: RunFiles, lease: Lease) -> None:
    # Of one size: a reader of a bucket may take the size from the text before.
    write_text(_location(store), f"{json.dumps(asdict(lease)):<{_FILE_CHARACTERS}}\n")


def _time_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


@lru_cache
def _this_process() -> tuple[str, int, int, float]:
    """Return the owner of this process's leases."""
    import psutil

    namespace = Path("/proc/self/ns/pid")  # Linux only
    number = namespace.stat().st_ino if namespace.exists() else 0
    return platform.node(), number, os.getpid(), psutil.Process().create_time()
