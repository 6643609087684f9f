"""What viewers said of a dataset's examples, as the targets of heads."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from laser_dist.training.records import Records
from laser_dist.training.stored import IMAGES, LEVELS, features_of

# TFDS stores what is ragged as all values one after the other, and how many each row has.
_SAMPLES, _COUNTS = "viewer_samples/ragged_flat_values", "viewer_samples/ragged_row_lengths_0"
_AT_ONCE = 64  # examples in memory, images and all


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels of a split's examples, in stored order; NaN where a level is missing.

    Attributes:
      levels: [N, 3] float32, on the dataset's scale.
      sample_means: [N, 3] float32, of the viewers' samples of each level.
      sample_variances: [N, 3] float32, of the same.
    """

    levels: np.ndarray
    sample_means: np.ndarray
    sample_variances: np.ndarray

    def targets(self, levels: tuple[int, ...], *, spread: bool) -> np.ndarray:
        """What a head of these levels (from 1) learns.

        Returns:
          [N, L] float32; of a head that gives the spread [N, L, 3]: the level, and mean and
          variance of the samples, in which all is that the likelihood of a normal distribution
          asks of them.
        """
        columns = [level - 1 for level in levels]
        if not spread:
            return self.levels[:, columns]
        parts = (self.levels, self.sample_means, self.sample_variances)
        return np.stack([part[:, columns] for part in parts], axis=-1)


def read_labels(records: Records) -> Labelled:
    """Reads a split's labels; no image is decoded."""
    rows = [
        _label(record)
        for start in range(0, len(records), _AT_ONCE)
        for record in records.read(range(start, min(start + _AT_ONCE, len(records))))
    ]
    labels = np.array(rows, np.float32).reshape(len(rows), 3, len(IMAGES) - 1)
    return Labelled(labels[:, 0], labels[:, 1], labels[:, 2])


def has_level(targets: np.ndarray) -> np.ndarray:
    """[N] bool: whether an example has any of its levels, of targets [N, L] or [N, L, 3]."""
    levels = targets if targets.ndim == 2 else targets[..., 0]
    return np.asarray(np.isfinite(levels).any(axis=-1))


def present_means(values: np.ndarray) -> np.ndarray:
    """[L]: the mean of each column of [N, L] over the examples that have it, one at least."""
    return np.mean(values, axis=0, where=np.isfinite(values))


def _label(record: bytes) -> np.ndarray:
    """[3, L] of an example: levels, and mean and variance of the samples of each."""
    features = features_of(record)
    levels = np.array(features[LEVELS].float_list.value)
    moments = np.full((2, len(levels)), np.nan)
    for level, samples in enumerate(_per_level(features)):
        if len(samples) and np.isfinite(levels[level]):
            moments[:, level] = samples.mean(), samples.var()
    return np.array([levels, *moments])


def _per_level(features: Any) -> list[np.ndarray]:
    """The samples of each level; none where the dataset has none."""
    if _SAMPLES not in features:
        return []
    ends = np.cumsum(features[_COUNTS].int64_list.value, dtype=np.int64)
    return np.split(np.array(features[_SAMPLES].int64_list.value, np.float64), ends[:-1])
