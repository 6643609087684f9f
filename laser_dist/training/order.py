"""In which order examples are seen, in which version, and blended with which others.

All of it follows from the seed, the epoch's number and the number of examples: not from how many
workers there are, nor from whether features are kept or computed anew.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from laser_dist.training.labels import has_level

SHUFFLE_BUFFER = 1024  # examples, still encoded: about 150 KB each at 256x144, 1.5 MB at 640x352


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is this worker's.

    Attributes:
      index: of the worker, from 0.
      num_workers: how many there are.
    """

    index: int = 0
    num_workers: int = 1

    def slice_of(self, batch_size: int) -> slice:
        """This worker's places in a global batch."""
        size = batch_size // self.num_workers
        return slice(self.index * size, (self.index + 1) * size)


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """One epoch of a head, example by example in the order of training.

    Attributes:
      shuffle_seed: that the stored order was shuffled with, in a buffer of `SHUFFLE_BUFFER`; None
        where it was kept.
      rows: [N] which example, counted among those that have a level.
      versions: [N] 0 for it as stored, 1 for mirrored.
      mates: [N] place, in this order, of the example that it is blended with, in the same global
        batch; its own where it is blended with none.
      kept: [N] float32, the example's own share of the blend.
    """

    shuffle_seed: int | None
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
    places = np.arange(total)
    if seed is None:
        as_stored, alone = np.zeros(total, np.int64), np.ones(total, np.float32)
        return EpochOrder(None, places, as_stored, places, alone)
    shuffle_seed = mixed_seed(seed, epoch)
    # TensorFlow's own shuffling, so that a dataset's examples come in the same order.
    shuffled = tf.data.Dataset.range(total).shuffle(SHUFFLE_BUFFER, seed=shuffle_seed)
    rows = np.fromiter(shuffled.as_numpy_iterator(), np.int64, total)
    rng = np.random.default_rng([seed, epoch])
    versions = rng.integers(num_versions, size=total)
    if mixup <= 0:
        return EpochOrder(shuffle_seed, rows, versions, places, np.ones(total, np.float32))
    starts = range(0, total, batch_size)
    batches = [rng.permutation(places[start : start + batch_size]) for start in starts]
    mates = np.concatenate([places[:0], *batches])
    # A sum is NaN where either is: without a level in common an example is its own mate.
    mates = np.where(has_level(targets[rows] + targets[rows[mates]]), mates, places)
    kept = rng.beta(mixup, mixup, size=total).astype(np.float32)
    # Exactly itself: a worker that has nothing to blend does not compute it.
    kept = np.where(mates == places, np.float32(1), kept)
    return EpochOrder(shuffle_seed, rows, versions, mates, kept)


def num_steps(num_examples: int, batch_size: int) -> int:
    """Steps of an epoch, the last, smaller one included."""
    return -(-num_examples // batch_size)


def mixed_seed(seed: int, epoch: int) -> int:
    """One seed of two, below 2**31."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0] >> 1)
