"""Order, versions, blending and distribution of examples; pure index arithmetic.

All of it follows from the seed, the number of the epoch and the number of examples. It depends
neither on the number of workers nor on whether features are cached.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Batch:
    """A worker's part of one global batch.

    Attributes:
      inputs: model inputs: [b, ...] array, or a list of such: frames uint8 [b, H, W, 3], features
        float16 or float32. The step casts them to float32.
      targets: targets of the objective: [b, ...] array, or a list of such.
      weights: [b] float32, 1 for an example, 0 for padding.
      global_count: number of examples of the global batch, over all workers, without padding.
      mirrored: [b] bool: whether the step mirrors the frames of inputs and targets left to right;
        None mirrors none.
      mates: inputs that each example is blended with, as `inputs`; None blends none.
      kept: [b] float32, share of the example itself in its blend, if there are `mates`.
    """

    inputs: Any
    targets: Any
    weights: Any
    global_count: int
    mirrored: Any = None
    mates: Any = None
    kept: Any = None


@dataclass(frozen=True, eq=False)
class BatchSlice:
    """Positions of a worker's part of a global batch, padded to the size that all parts have.

    Attributes:
      places: [b] positions in the batch, from 0. Padding repeats examples of the same batch.
      weights: [b] float32, 1 for an example, 0 for padding.
    """

    places: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class WorkerShard:
    """A worker's part of every global batch.

    A batch is divided into runs, one for each device of all workers. Their lengths differ by at
    most 1, and each is padded to the longest: so any number of devices fits any batch.

    Attributes:
      index: number of the worker, from 0.
      num_workers: number of workers.
      devices: number of devices per worker.
    """

    index: int = 0
    num_workers: int = 1
    devices: int = 1

    def size_of(self, batch_size: int) -> int:
        """Return the size of this worker's part, `devices` times the longest run."""
        return self.devices * -(-batch_size // (self.num_workers * self.devices))

    def slice_of(self, count: int, batch_size: int) -> BatchSlice:
        """Return this worker's part, the runs of its devices in order.

        Args:
          count: number of examples in the batch, at least 1; the last of an epoch may have fewer
            than `batch_size`.
          batch_size: size of full batches.

        Returns:
          `size_of(batch_size)` positions.
        """
        replicas = self.num_workers * self.devices
        mine = self.index * self.devices + np.arange(self.devices)[:, None]
        starts, stops = mine * batch_size // replicas, (mine + 1) * batch_size // replicas
        positions = starts + np.arange(self.size_of(batch_size) // self.devices)
        present = positions < np.minimum(stops, count)
        return BatchSlice(positions.ravel() % count, present.ravel().astype(np.float32))


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """Examples of one epoch of a head, in the order of training.

    Attributes:
      rows: [N] index of the example, among those that have a level.
      versions: [N] 0 for the frame as stored, 1 for mirrored.
      mates: [N] position, in this order and in the same global batch, of the example that it is
        blended with; its own position if it is not blended.
      kept: [N] float32, weight of the example itself in the blend.
    """

    rows: np.ndarray
    versions: np.ndarray
    mates: np.ndarray
    kept: np.ndarray


def epoch_order(
    targets: np.ndarray,
    epoch: int,
    *,
    seed: int | None,
    batch_size: int,
    num_versions: int = 1,
    mixup: float = 0.0,
) -> EpochOrder:
    """Draw the order of one epoch.

    Args:
      targets: [N, L] or [N, L, 3] of the examples that have a level. A blend lacks every level that
        one of its two examples lacks; two without a common level are not blended.
      epoch: number of the epoch.
      seed: random seed; None keeps the stored order and version 0, and blends nothing.
      batch_size: size of global batches.
      num_versions: 1, or 2 with mirrored frames.
      mixup: as `StageConfig.mixup`.
    """
    total = len(targets)
    places, alone = np.arange(total), np.ones(total, np.float32)
    if seed is None:
        return EpochOrder(places, np.zeros(total, np.int64), places, alone)
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(total)
    versions = rng.integers(num_versions, size=total)
    if mixup <= 0:
        return EpochOrder(rows, versions, places, alone)
    starts = range(0, total, batch_size)
    batches = [rng.permutation(places[start : start + batch_size]) for start in starts]
    mates = np.concatenate([places[:0], *batches])
    # A sum is NaN if either is: without a common level an example is its own mate.
    mates = np.where(has_level(targets[rows] + targets[rows[mates]]), mates, places)
    kept = rng.beta(mixup, mixup, size=total).astype(np.float32)
    # Exactly 1: a worker that has nothing to blend skips the computation.
    kept = np.where(mates == places, np.float32(1), kept)
    return EpochOrder(rows, versions, mates, kept)


def shuffled(total: int, epoch: int, seed: int | None) -> np.ndarray:
    """Return [total]: the index of the example at each position of an epoch.

    Args:
      total: number of examples.
      epoch: number of the epoch.
      seed: random seed; None keeps the stored order.
    """
    return (
        np.arange(total)
        if seed is None
        else np.random.default_rng([seed, epoch]).permutation(total)
    )


def num_steps(num_examples: int, batch_size: int) -> int:
    """Return the number of steps of an epoch, including a last, smaller one."""
    return -(-num_examples // batch_size)


def step_rng(seed: int | None, epoch: int, step: int) -> np.random.Generator:
    """Return the random generator of one step.

    Args:
      seed: random seed of the run; None counts as 0.
      epoch: number of the epoch.
      step: number of the step in the epoch, from 0.
    """
    # NumPy ignores a 0 at the end of a seed, and without it this is the seed of the epoch's order.
    return np.random.default_rng([seed or 0, epoch, 1 + step])


def has_level(targets: np.ndarray) -> np.ndarray:
    """Return [N] bool: whether each example has any level, for targets [N, L] or [N, L, 3]."""
    levels = targets if targets.ndim == 2 else targets[..., 0]
    return np.asarray(np.isfinite(levels).any(axis=-1))
