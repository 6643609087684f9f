"""What viewers said of a dataset's examples, as the targets of heads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from laser_dist.training.stored import LEVELS, partial_dataset

_SAMPLES = "viewer_samples"


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


def read_labels(dataset_dir: Path, split: str) -> Labelled:
    """Reads a split's labels; no image is decoded."""
    wanted = {LEVELS: True, _SAMPLES: True}
    features: Any = tfds.builder_from_directory(dataset_dir).info.features
    if _SAMPLES not in features:
        del wanted[_SAMPLES]
    rows = list(partial_dataset(dataset_dir, split, wanted, {}).as_numpy_iterator())
    levels = np.array([row[LEVELS] for row in rows], np.float32).reshape(len(rows), -1)
    moments = np.full((len(rows), levels.shape[1], 2), np.nan, np.float32)
    for index, row in enumerate(rows):
        for level, samples in enumerate(_per_level(row.get(_SAMPLES))):
            if len(samples) and np.isfinite(levels[index, level]):
                moments[index, level] = samples.mean(), samples.var()
    return Labelled(levels, moments[..., 0], moments[..., 1])


def has_level(targets: np.ndarray) -> np.ndarray:
    """[N] bool: whether an example has any of its levels, of targets [N, L] or [N, L, 3]."""
    levels = targets if targets.ndim == 2 else targets[..., 0]
    return np.asarray(np.isfinite(levels).any(axis=-1))


def present_means(values: np.ndarray) -> np.ndarray:
    """[L]: the mean of each column of [N, L] over the examples that have it, one at least."""
    return np.mean(values, axis=0, where=np.isfinite(values))


def _per_level(ragged: Any) -> list[np.ndarray]:
    """The samples of each level, of TensorFlow's ragged value."""
    if ragged is None:
        return []
    rows = ragged.to_list() if hasattr(ragged, "to_list") else list(ragged)
    return [np.asarray(row, np.float64) for row in rows]
