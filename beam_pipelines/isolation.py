"""A child process for work that may crash or hang: codecs on damaged files.

The work reports each step before it starts it. If it crashes or a step times out, the parent
survives, knows the step, and can have the rest done without it.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

_POLL_S = 1.0


class Crashed(Exception):
    """The child process died or was killed during a step.

    Attributes:
      step: the step; None if none was reported.
      how: how the process ended.
    """

    def __init__(self, step: Any, how: str) -> None:
        super().__init__(step, how)
        self.step = step
        self.how = how


class Isolated:
    """Calls functions in a child process, one at a time; the process is reused between calls."""

    def __init__(self, step_seconds: float | None, *, exit_seconds: float = 10.0) -> None:
        """Set the limits; the first call starts the process.

        Args:
          step_seconds: time limit for one step; None for no limit.
          exit_seconds: time limit for the exit of a process that has closed its pipe.
        """
        self.step_seconds = step_seconds
        self._exit_seconds = exit_seconds
        self._process: subprocess.Popen | None = None
        self._connection: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function(*arguments, report)` in the child, where `report(step)` reports a step.

        Args:
          function: a function of an importable module.
          arguments: arguments that can be pickled.

        Returns:
          What the function returns.

        Raises:
          Crashed: the child died, or a step timed out; the next call starts another child.
          Exception: what the function raised.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            kind, value = self._answer(function, arguments)
        except BaseException:  # a child still at work would answer the next call
            self.close()
            raise
        if kind == "error":
            raise value
        return value

    def _answer(self, function: Callable[..., Any], arguments: tuple) -> tuple[str, Any]:
        step = None
        try:
            self._connection.send((function, arguments))
            while self._connection.poll(self.step_seconds):
                kind, value = self._connection.recv()
                if kind != "step":
                    return kind, value
                step = value
        except (EOFError, OSError) as error:  # from the pipe: those of the function come as answers
            raise Crashed(step, _how(self._last_status())) from error
        raise Crashed(step, f"timed out after {self.step_seconds:g} s")

    def _last_status(self) -> int | None:
        """Return the child's exit status once its pipe is closed; None if it still runs."""
        assert self._process is not None
        try:
            return self._process.wait(self._exit_seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Stop the child."""
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
        # Not `multiprocessing`: its children import the parent's main module, here the Beam worker.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beam_pipelines.isolation", str(number)],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        self._connection = ours


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the codec process was killed by {signal.Signals(-status).name}"
    if status is None:
        return "the codec process closed its pipe"
    return f"the codec process exited with status {status}"


def _serve(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    connection = Connection(number)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        connection.send(_answer(connection, function, arguments))


def _answer(connection: Any, function: Callable[..., Any], arguments: tuple) -> tuple[str, Any]:
    try:
        return "done", function(*arguments, lambda step: connection.send(("step", step)))
    except Exception as error:  # noqa: BLE001 - passed to the parent, which raises it
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - such an error can only be passed as text
            return "error", RuntimeError(traceback.format_exc())
        return "error", error


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent is gone; its pipe is not read while a clip is encoded."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
