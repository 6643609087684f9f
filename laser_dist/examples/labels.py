"""Labels of a dataset's examples, as targets of heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from laser_dist.examples.example_codec import IMAGES, LEVELS

LABEL_COLUMNS = (LEVELS, "viewer_samples")


@dataclass(frozen=True, eq=False)
class Labeled:
    """Labels of examples; NaN where a level is missing.

    Attributes:
      levels: [N, 3] float32, on the dataset's scale.
      sample_means: [N, 3] float32, of the viewers' samples of each level.
      sample_variances: [N, 3] float32, of the same.
    """

    levels: np.ndarray
    sample_means: np.ndarray
    sample_variances: np.ndarray

    def targets(self, levels: tuple[int, ...], *, spread: bool) -> np.ndarray:
        """Return the targets of a head for these levels (from 1).

        Returns:
          [N, L] float32; with spreads [N, L, 3]: the level, and mean and variance of the samples,
          from which the likelihood of a normal distribution follows.
        """
        columns = [level - 1 for level in levels]
        if not spread:
            return self.levels[:, columns]
        parts = (self.levels, self.sample_means, self.sample_variances)
        return np.stack([part[:, columns] for part in parts], axis=-1)


def labels_in(table: pa.Table) -> Labeled:
    """Return the labels in a label table with the columns `LABEL_COLUMNS`."""
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    labels = np.array([_with_moments(*row) for row in rows], np.float32)
    labels = labels.reshape(-1, 3, len(IMAGES) - 1)
    return Labeled(labels[:, 0], labels[:, 1], labels[:, 2])


def present_means(values: np.ndarray) -> np.ndarray:
    """Return [L]: the mean of each column of [N, L] over the examples that have it."""
    return np.mean(values, axis=0, where=np.isfinite(values))


def _with_moments(levels: Sequence[float], samples: Sequence[Sequence[int]]) -> np.ndarray:
    """Return [3, L]: levels, and mean and variance of the samples of each."""
    moments = np.full((2, len(levels)), np.nan)
    for index, (level, of_level) in enumerate(zip(levels, samples, strict=True)):
        if len(of_level) and np.isfinite(level):
            numbers = np.asarray(of_level, np.float64)
            moments[:, index] = numbers.mean(), numbers.var()
    return np.array([levels, *moments])
