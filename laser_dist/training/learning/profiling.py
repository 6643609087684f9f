"""Traces of some steps, for TensorBoard's profiler."""

from pathlib import Path

import tensorflow as tf

FIRST_EXECUTION = 3  # the first ones compile the step


class Profiler:
    """Traces some steps of a stage."""

    def __init__(self, folder: Path, num_steps: int) -> None:
        """Prepare a trace.

        Args:
          folder: folder of the stage's TensorBoard logs.
          num_steps: number of steps to trace; 0 for none.
        """
        self._folder, self._left = str(folder), num_steps
        self._runs, self._executions = False, 0

    def before(self, num_steps: int) -> None:
        """Start the trace before its first step, or end it after its last.

        Args:
          num_steps: number of steps that are about to be started together.
        """
        self._executions += 1
        if not self._runs and self._left and self._executions >= FIRST_EXECUTION:
            tf.profiler.experimental.start(self._folder)
            self._runs = True
        elif self._runs and not self._left:
            self.stop()
        if self._runs:
            self._left = max(0, self._left - num_steps)

    def stop(self) -> None:
        """Write the trace, if one runs."""
        if self._runs:
            tf.profiler.experimental.stop()
            self._runs, self._left = False, 0
