"""How fast an epoch goes, and what its time is spent on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Takes the times of one epoch's steps, from its creation on."""

    def __init__(self, *, checkpoint_s: float = 0.0) -> None:
        """Starts the clock, which has run for the last epoch's checkpoint already."""
        self._started = time.monotonic() - checkpoint_s
        self._training_s: float | None = None
        self._spent = {"checkpoint": checkpoint_s}
        self._steps = 0
        self._examples = 0

    def step(self, examples: int) -> None:
        """Counts a step of so many examples, of all workers together."""
        self._steps += 1
        self._examples += examples

    def wait(self, what: str, seconds: float) -> None:
        """Adds to the time spent on something."""
        self._spent[what] = self._spent.get(what, 0.0) + seconds

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Adds the block's time to what is spent on something."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.wait(what, time.monotonic() - started)

    def stop(self) -> None:
        """Says that the steps are over; what follows is validation."""
        self._training_s = time.monotonic() - self._started

    def figures(self, num_workers: int, sum_s: float) -> dict[str, float]:
        """Figures for the log.

        Args:
          num_workers: that share the examples.
          sum_s: what it takes to sum a gradient over all replicas where none waits for another;
            so the share of time given for it is an estimate, and waiting counts as computing.

        Returns:
          `samples_per_second` of each worker; of the time of training, without validation, the
          shares `input_wait`, `all_reduce`, `checkpoint` and, what is left, `compute`; `seconds`,
          validation included, and `training_seconds`, of which the shares are.
        """
        took = time.monotonic() - self._started if self._training_s is None else self._training_s
        took = max(took, 1e-9)
        shares = {
            "input_wait": self._spent.get("input", 0.0) / took,
            "all_reduce": self._steps * sum_s / took,
            "checkpoint": self._spent["checkpoint"] / took,
        }
        return {
            "samples_per_second": self._examples / took / num_workers,
            **shares,
            "compute": max(0.0, 1 - sum(shares.values())),
            "training_seconds": took,
            "seconds": time.monotonic() - self._started,
        }
