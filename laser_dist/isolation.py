"""A child process for work that may crash or hang: codecs on damaged files.

The work reports each step before it starts it. If it crashes or a step times out, the parent
survives, knows the step, and can have the rest done without it. What it logs is logged by the
parent.
"""

import logging
import mmap
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import psutil

from laser_dist.errors import UserError
from laser_dist.storage import limit

MEMORY_BYTES = limit("MEMORY_BYTES", 4 * 10**9)
"""Memory limit of a child process. A 1080p source of 150 frames takes 1.6 GB."""

_POLL_S = 1.0
_SHORT = 0.75  # of the memory limit
_PROBE_BYTES = 1 << 26


class Crashed(Exception):
    """The child process crashed, hung, or needs too much memory: the fault of its input.

    Attributes:
      step: the step during which it happened; None if none was reported.
      how: how the process ended.
      needs: the limit that was not enough, such as "30 s"; empty if the process crashed.
      signal: name of the signal of a crash; empty if there was none.
      message: how the process ended, as a sentence.
    """

    def __init__(self, step: Any, how: str, *, needs: str = "", signal: str = "") -> None:
        super().__init__(step, how)
        self.step = step
        self.how = how
        self.needs = needs
        self.signal = signal
        self.message = f"A child process failed: {how}."


class OutOfMemory(Exception):
    """The child process was killed, or found no memory.

    Attributes:
      step: as for `Crashed`.
      how: as for `Crashed`.
      needs: as for `Crashed`; empty if the machine, not the limit of the process, was the reason.
    """

    def __init__(self, step: Any, how: str, *, needs: str = "") -> None:
        super().__init__(how)
        self.step = step
        self.how = how
        self.needs = needs


class Stopped(Exception):
    """The child process was stopped by `Isolated.stop` or a signal: no fault of its input."""


class Isolated:
    """Calls functions in a child process, one at a time; the process is reused between calls."""

    def __init__(
        self,
        step_seconds: float | None,
        *,
        memory_bytes: int = MEMORY_BYTES,
        exit_seconds: float = 10.0,
    ) -> None:
        """Set the limits; the first call starts the process.

        Args:
          step_seconds: time limit for one step; None for no limit.
          memory_bytes: memory limit.
          exit_seconds: time limit for the exit of a process that has closed its pipe.
        """
        self.step_seconds = step_seconds
        self._memory_bytes = memory_bytes
        self._exit_seconds = exit_seconds
        self._process: subprocess.Popen | None = None
        self._connection: Any = None
        self._is_stopped = False
        self._starting = threading.Lock()

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        on_step: Callable[[Any], None] = lambda step: None,
    ) -> Any:
        """Call `function(*arguments, report)` in the child, where `report(step)` reports a step.

        Args:
          function: a function of an importable module.
          arguments: arguments that can be pickled.
          on_step: called here with each reported step.

        Returns:
          What the function returns.

        Raises:
          Crashed: the child crashed, or a step timed out; the next call starts another child.
          OutOfMemory: the child was killed, or found no memory; likewise.
          Stopped: `stop` was called.
          Exception: what the function or `on_step` raised.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            kind, value = self._answer(function, arguments, on_step)
        except BaseException:  # a child still at work would answer the next call
            self.close()
            raise
        if kind == "error":
            raise value
        return value

    def _answer(
        self, function: Callable[..., Any], arguments: tuple, on_step: Callable[[Any], None]
    ) -> tuple[str, Any]:
        step, message = None, (function, arguments)
        while True:
            try:  # errors of the pipe: those of the function come as answers
                if message is not None:
                    self._connection.send(message)
                if not self._connection.poll(self.step_seconds):
                    needs = f"{self.step_seconds:g} s"
                    raise Crashed(step, f"timed out after {needs}", needs=needs)
                kind, value = self._connection.recv()
            except (EOFError, OSError) as error:
                raise self._end(step) from error
            if kind == "memory":
                size = f"{self._memory_bytes / 1e9:g} GB"
                problem = f"exceeded its memory limit of {size}" if value else "found no memory"
                needs = f"{size} of memory" if value else ""
                raise OutOfMemory(step, f"the codec process {problem}", needs=needs)
            if kind == "log":
                name, level, text = value
                logging.getLogger(name).log(level, "%s", text)
                message = None
                continue
            if kind != "step":
                return kind, value
            step, message = value, None
            on_step(value)

    def _end(self, step: Any) -> Exception:
        """Return what the end of the child during a step means."""
        status = self._last_status()
        if self._is_stopped or status in (-signal.SIGTERM, -signal.SIGINT):
            return Stopped()
        if status == -signal.SIGKILL:  # what Linux sends when memory runs out
            return OutOfMemory(step, _how(status))
        name = signal.Signals(-status).name if status is not None and status < 0 else ""
        return Crashed(step, _how(status), signal=name)

    def _last_status(self) -> int | None:
        """Return the child's exit status once its pipe is closed; None if it still runs."""
        assert self._process is not None
        try:
            return self._process.wait(self._exit_seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Stop the child, even during a call of another thread, which then raises `Stopped`."""
        with self._starting:
            self._is_stopped = True
            process = self._process  # which another thread may set to None
            if process is not None:
                process.kill()

    def close(self) -> None:
        """Stop the child, if there is one; the next call starts another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        self.close()
        ours, theirs = Pipe()
        number = theirs.fileno()
        with self._starting:
            if self._is_stopped:
                raise Stopped
            # Not `multiprocessing`: its children import the parent's main module, the Beam worker.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # a module in the working directory may be anybody's
                    "-m",
                    "laser_dist.isolation",
                    str(number),
                    str(self._memory_bytes),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    # Arrow's own pool would reserve 1 GB.
                    "ARROW_DEFAULT_MEMORY_POOL": "system",
                },
            )
        theirs.close()
        self._connection = ours


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the codec process was killed by {signal.Signals(-status).name}"
    if status is None:
        return "the codec process closed its pipe"
    return f"the codec process exited with status {status}"


def without_steps(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that reports no steps; the last argument is that of `Isolated.call`."""
    return function(*arguments[:-1])


def lacks_memory(error: BaseException) -> bool:
    """Return whether memory was refused: by Python, to FFmpeg, or to a child by the machine.

    FFmpeg reports some refusals as invalid data, so a `UserError` counts if memory is short.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MemoryError):
        if isinstance(cause, OutOfMemory):
            return not cause.needs
        cause = cause.__cause__
    return cause is not None or (isinstance(error, UserError) and _is_memory_short())


def _is_memory_short() -> bool:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    # Not `getrusage`: it counts the parent's memory too.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return (limit != resource.RLIM_INFINITY and peak > _SHORT * limit) or not _grants(_PROBE_BYTES)


def _serve(number: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    connection, sending = Connection(number), threading.Lock()

    def send(kind: str, value: Any) -> None:
        with sending:
            connection.send((kind, value))

    logging.basicConfig(handlers=[_Forwarder(send)], level=logging.INFO)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        send(*_answer(send, function, arguments))


class _Forwarder(logging.Handler):
    """Sends what is logged to the parent, whose settings decide what becomes of it."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record as text."""
        with suppress(OSError):  # the parent is gone
            self._send("log", (record.name, record.levelno, record.getMessage()))


def _answer(
    send: Callable[[str, Any], None], function: Callable[..., Any], arguments: tuple
) -> tuple[str, Any]:
    try:
        return "done", function(*arguments, lambda step: send("step", step))
    except Exception as error:  # noqa: BLE001 - passed to the parent, which raises it
        if lacks_memory(error):
            return "memory", _is_at_limit()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - such an error can only be passed as text
            return "error", RuntimeError(traceback.format_exc())
        return "error", error


def _is_at_limit() -> bool:
    """Return whether the limit has refused memory: the machine grants all that is left below it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return _grants(limit - psutil.Process().memory_info().data - mmap.PAGESIZE)


def _grants(num_bytes: int) -> bool:
    """Return whether some memory can be had; none is used."""
    try:
        if num_bytes > 0:
            mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON).close()
    except OSError:
        return False
    return True


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent is gone; its pipe is not read while a clip is encoded."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
