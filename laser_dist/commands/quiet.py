"""Keeps what the libraries print away from the user's terminal."""

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from laser_dist.commands.terminal import Terminal

# Read when the libraries are imported, and by the processes they start.
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRPC_VERBOSITY": "ERROR",
}
# Else dataset libraries look for Google's metadata server. On Google's own machines it is what
# gives the credentials.
_ENVIRONMENT_ON_DISKS = {"NO_GCE_CHECK": "true"}


def prepare_environment(*, uses_cloud: bool = False) -> None:
    """Sets what the libraries read when they are imported; what the user has set stays.

    Args:
      uses_cloud: the command reads or writes behind a URL.
    """
    os.environ.update(environment(uses_cloud=uses_cloud))


def environment(*, uses_cloud: bool) -> dict[str, str]:
    """The variables that `prepare_environment` sets, with the user's own values where set."""
    defaults = _ENVIRONMENT | ({} if uses_cloud else _ENVIRONMENT_ON_DISKS)
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


@contextmanager
def quiet(log_path: Path | None, *, debug: bool) -> Iterator[Terminal]:
    """Sends all that is printed to a log, except through the terminal that it gives.

    Libraries print from C++ and from other processes, so the streams themselves are turned round,
    not Python's names for them.

    Args:
      log_path: of the log, begun anew; its folder is made. None where there is no output folder:
        what is printed is dropped then.
      debug: leave everything as it is, libraries' messages included.

    Yields:
      The way to speak to the user meanwhile.

    Raises:
      OSError: the log cannot be written.
    """
    if debug:
        yield Terminal(sys.stdout)
        return
    with _log(log_path) as log, _real_stdout() as out, _turned_to(log):
        try:
            yield Terminal(out)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            if log_path is not None:
                error.add_note(f"Log: {log_path}")
            raise


@contextmanager
def _log(path: Path | None) -> Iterator[IO[bytes]]:
    if path is None:
        with tempfile.TemporaryFile() as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield file
    if path.stat().st_size == 0:
        path.unlink()


@contextmanager
def _real_stdout() -> Iterator[IO[str]]:
    """A stream of our own to where standard output leads now; no process inherits it."""
    sys.stdout.flush()
    try:
        number = os.dup(sys.stdout.fileno())
    except io.UnsupportedOperation:  # not a file at all, as in a notebook
        yield sys.stdout
        return
    with open(number, "w", encoding=sys.stdout.encoding, errors="replace") as out:
        yield out


@contextmanager
def _turned_to(log: IO[bytes]) -> Iterator[None]:
    """Turns file descriptors 1 and 2 to the log, and back."""
    _flush()
    before = {number: os.dup(number) for number in (1, 2)}
    for number in before:
        os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        _flush()
        for number, kept in before.items():
            os.dup2(kept, number)
            os.close(kept)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a full disk must not hide what comes next
            stream.flush()
