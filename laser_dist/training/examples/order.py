"""In which order examples are seen, in which version, and blended with which others.

All of it follows from the seed, the epoch's number and the number of examples: not from how many
workers there are, nor from whether features are kept or computed anew.
"""

from dataclasses import dataclass

import numpy as np

from laser_dist.training.examples.labels import has_level


@dataclass(frozen=True, eq=False)
class Part:
    """One worker's part of a global batch, padded to the size that all its parts have.

    Attributes:
      places: [b] in the batch, from 0; padding is examples of the same batch over again, so that
        batch norms see no other.
      weights: [b] float32, 1 for an example, 0 for padding.
    """

    places: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is this worker's.

    A batch is cut into runs, one for each device of all workers, whose lengths differ by 1 at most
    and are filled up to the longest: so any number of devices fits any batch.

    Attributes:
      index: of the worker, from 0.
      num_workers: how many there are.
      devices: of each worker.
    """

    index: int = 0
    num_workers: int = 1
    devices: int = 1

    def size_of(self, batch_size: int) -> int:
        """Examples and padding of this worker's part, `devices` times the longest run."""
        return self.devices * -(-batch_size // (self.num_workers * self.devices))

    def part_of(self, count: int, batch_size: int) -> Part:
        """This worker's part, the runs of its devices one after the other.

        Args:
          count: examples of the batch, at least 1; fewer than `batch_size` in an epoch's last.
          batch_size: of full batches.

        Returns:
          `size_of(batch_size)` places.
        """
        replicas = self.num_workers * self.devices
        mine = self.index * self.devices + np.arange(self.devices)[:, None]
        starts, stops = mine * batch_size // replicas, (mine + 1) * batch_size // replicas
        positions = starts + np.arange(self.size_of(batch_size) // self.devices)
        present = positions < np.minimum(stops, count)
        return Part(positions.ravel() % count, present.ravel().astype(np.float32))


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """One epoch of a head, example by example in the order of training.

    Attributes:
      rows: [N] which example, counted among those that have a level.
      versions: [N] 0 for it as stored, 1 for mirrored.
      mates: [N] place, in this order, of the example that it is blended with, in the same global
        batch; its own where it is blended with none.
      kept: [N] float32, the example's own share of the blend.
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
    """The order of one epoch.

    Args:
      targets: [N, L] or [N, L, 3] of the examples that have a level; a blend lacks every level
        that one of its two lacks, and two that have none in common are not blended.
      epoch: its number.
      seed: None keeps the stored order, version 0, and blends nothing.
      batch_size: global.
      num_versions: 1, or 2 with mirrored ones.
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
    # A sum is NaN where either is: without a level in common an example is its own mate.
    mates = np.where(has_level(targets[rows] + targets[rows[mates]]), mates, places)
    kept = rng.beta(mixup, mixup, size=total).astype(np.float32)
    # Exactly itself: a worker that has nothing to blend does not compute it.
    kept = np.where(mates == places, np.float32(1), kept)
    return EpochOrder(rows, versions, mates, kept)


def shuffled(total: int, epoch: int, seed: int | None) -> np.ndarray:
    """[total]: which example comes at each place of an epoch.

    Args:
      total: number of examples.
      epoch: its number.
      seed: None keeps the stored order.
    """
    return (
        np.arange(total)
        if seed is None
        else np.random.default_rng([seed, epoch]).permutation(total)
    )


def num_steps(num_examples: int, batch_size: int) -> int:
    """Steps of an epoch, the last, smaller one included."""
    return -(-num_examples // batch_size)


def step_rng(seed: int | None, epoch: int, step: int) -> np.random.Generator:
    """What one step draws for its batch.

    Args:
      seed: of the run; None is 0.
      epoch: its number.
      step: of the epoch, from 0.
    """
    # A seed that ends in 0 is the same as without it: the order of the epoch has that one.
    return np.random.default_rng([seed or 0, epoch, 1 + step])
