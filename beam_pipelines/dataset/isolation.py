"""A child process in which work runs that may crash or hang: codecs on damaged files.

The work tells each step before it takes it. Should the process die or not come on in time, its
parent lives, knows the step, and may have the rest done without it.
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
_END_S = 10.0


class Crashed(Exception):
    """The child process ended, or was ended, while it took a step.

    Attributes:
      step: that it was at; None if it was not yet at any.
      how: it ended.
    """

    def __init__(self, step: Any, how: str) -> None:
        super().__init__(step, how)
        self.step = step
        self.how = how


class Isolated:
    """Calls functions in a child process, one at a time; the process is kept between calls."""

    def __init__(self, step_seconds: float) -> None:
        """Starts nothing yet.

        Args:
          step_seconds: longest time for one step.
        """
        self._step_seconds = step_seconds
        self._process: subprocess.Popen | None = None
        self._connection: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `function(*arguments, report)` in the child; `report(step)` tells a step.

        Args:
          function: of a module that can be imported.
          arguments: that can be pickled.

        Returns:
          What the function returns.

        Raises:
          Crashed: the child died, or took longer than allowed for a step; the next call starts
            another.
          Exception: what the function raised.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            kind, value = self._answer(function, arguments)
        except BaseException:  # the child may be at work yet: its answer would be taken for another
            self.close()
            raise
        if kind == "error":
            raise value
        return value

    def _answer(self, function: Callable[..., Any], arguments: tuple) -> tuple[str, Any]:
        step = None
        try:
            self._connection.send((function, arguments))
            while self._connection.poll(self._step_seconds):
                kind, value = self._connection.recv()
                if kind != "step":
                    return kind, value
                step = value
        except (EOFError, OSError) as error:  # of the pipe: the function's own come as answers
            raise Crashed(step, _how(self._last_status())) from error
        raise Crashed(step, f"not done after {self._step_seconds:g} s")

    def _last_status(self) -> int | None:
        """The child's status once its end of the pipe is closed; None where it lives on."""
        assert self._process is not None
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Ends the child."""
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
        # Not `multiprocessing`: its children import the parent's main module, here Beam's worker.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beam_pipelines.dataset.isolation", str(number)],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        self._connection = ours


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the codec's process was killed by {signal.Signals(-status).name}"
    if status is None:
        return "the codec's process closed its pipe"
    return f"the codec's process ended with status {status}"


def _serve(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
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
    except Exception as error:  # noqa: BLE001 - handed over to the parent, which raises it
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - whatever it is, only its text can be handed over
            return "error", RuntimeError(traceback.format_exc())
        return "error", error


def _end_with_parent(parent: int) -> None:
    """A parent that was killed closes no pipe while a clip is being coded."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
