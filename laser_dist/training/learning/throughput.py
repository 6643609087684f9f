"""Throughput of an epoch, and what its time is spent on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class EpochTimer:
    """Measures the times of one epoch, from its creation on."""

    def __init__(self, *, checkpoint_s: float = 0.0) -> None:
        """Start the clock.

        Args:
          checkpoint_s: seconds that the last epoch's checkpoint took; they count for this epoch.
        """
        self._started = time.monotonic() - checkpoint_s
        self._training_s: float | None = None
        self._spent = {"input": 0.0, "checkpoint": checkpoint_s}
        self._examples = 0

    def add_examples(self, count: int) -> None:
        """Count the examples of a step, of all workers together."""
        self._examples += count

    def add_input_wait(self, seconds: float) -> None:
        """Add seconds in which the step had to wait for its batch."""
        self._spent["input"] += seconds

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Count the block's time as spent on a checkpoint."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._spent["checkpoint"] += time.monotonic() - started

    def stop_training(self) -> None:
        """Mark the end of the steps; validation follows."""
        self._training_s = time.monotonic() - self._started

    def metrics(self, num_workers: int) -> dict[str, float]:
        """Return the epoch's metrics.

        Args:
          num_workers: number of workers that share the examples.

        Returns:
          `samples_per_second` per worker; shares of the training time, without validation:
          `input_wait`, `checkpoint`, and the rest as `compute`; `training_seconds`, of which these
          are shares; `seconds`, validation included.
        """
        took = time.monotonic() - self._started if self._training_s is None else self._training_s
        took = max(took, 1e-9)
        shares = {
            "input_wait": self._spent["input"] / took,
            "checkpoint": self._spent["checkpoint"] / took,
        }
        return {
            "samples_per_second": self._examples / took / num_workers,
            **shares,
            "compute": max(0.0, 1 - sum(shares.values())),
            "training_seconds": took,
            "seconds": time.monotonic() - self._started,
        }
