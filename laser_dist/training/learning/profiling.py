"""Traces of some steps, for TensorBoard's profiler."""

from pathlib import Path

import tensorflow as tf

FIRST_STEP = 3  # the first ones compile the step


class Profiler:
    """Traces some steps of a stage."""

    def __init__(self, folder: Path, num_steps: int) -> None:
        """Prepare a trace.

        Args:
          folder: folder of the stage's TensorBoard logs.
          num_steps: number of steps to trace; 0 for none.
        """
        self._folder, self._left = str(folder), num_steps
        self._runs = False

    def before_step(self, number: int) -> None:
        """Start the trace before its first step; end it after its last."""
        if not self._runs and self._left and number >= FIRST_STEP:
            tf.profiler.experimental.start(self._folder)
            self._runs = True
        elif self._runs and not self._left:
            self.stop()
        if self._runs:
            self._left -= 1

    def stop(self) -> None:
        """Write the trace, if one runs."""
        if self._runs:
            tf.profiler.experimental.stop()
            self._runs, self._left = False, 0
