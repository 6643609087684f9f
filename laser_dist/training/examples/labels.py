"""Labels of a dataset's examples, as targets of heads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laser_dist.training.examples.example_codec import IMAGES, LEVELS, features_of
from laser_dist.training.examples.records import Records
from laser_dist.training.storage.label_table import read_label_table

_SAMPLES_COLUMN = "viewer_samples"
# TFDS stores ragged features as all values in one list, and the length of each row.
_SAMPLES = f"{_SAMPLES_COLUMN}/ragged_flat_values"
_COUNTS = f"{_SAMPLES_COLUMN}/ragged_row_lengths_0"
# An example's levels [L], and the samples of each; none where the dataset has none.
_Row = tuple[Sequence[float], Sequence[Sequence[int] | np.ndarray]]
_AT_ONCE = 64  # examples in memory, images and all


@dataclass(frozen=True, eq=False)
class Labeled:
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


def read_labels(dataset: str | Path, split: str, records: Records) -> Labeled:
    """Read a split's labels, without decoding images.

    They are in the label table. If a dataset has none, every example is read.

    Args:
      dataset: location of the prepared dataset, path or URL.
      split: such as "train".
      records: of the split.

    Raises:
      UserError: the label table is damaged or of another build.
    """
    table = read_label_table(dataset, split, len(records), (LEVELS, _SAMPLES_COLUMN))
    if table is None:
        return _labeled(map(_row_of, _one_by_one(records)))
    return _labeled(zip(*(column.to_pylist() for column in table.columns), strict=True))


def present_means(values: np.ndarray) -> np.ndarray:
    """Return [L]: the mean of each column of [N, L] over the examples that have it."""
    return np.mean(values, axis=0, where=np.isfinite(values))


def _labeled(rows: Iterable[_Row]) -> Labeled:
    labels = np.array([_with_moments(*row) for row in rows], np.float32)
    labels = labels.reshape(-1, 3, len(IMAGES) - 1)
    return Labeled(labels[:, 0], labels[:, 1], labels[:, 2])


def _with_moments(
    levels: Sequence[float], samples: Sequence[Sequence[int] | np.ndarray]
) -> np.ndarray:
    """Return [3, L]: levels, and mean and variance of the samples of each."""
    moments = np.full((2, len(levels)), np.nan)
    for index, (level, of_level) in enumerate(zip(levels, samples, strict=False)):
        if len(of_level) and np.isfinite(level):
            numbers = np.asarray(of_level, np.float64)
            moments[:, index] = numbers.mean(), numbers.var()
    return np.array([levels, *moments])


def _one_by_one(records: Records) -> Iterable[bytes]:
    for start in range(0, len(records), _AT_ONCE):
        yield from records.read(range(start, min(start + _AT_ONCE, len(records))))


def _row_of(record: bytes) -> _Row:
    """Return an example's levels, and the samples of each; none if the dataset has none."""
    features: Any = features_of(record)
    levels = features[LEVELS].float_list.value
    if _SAMPLES not in features:
        return levels, []
    ends = np.cumsum(features[_COUNTS].int64_list.value, dtype=np.int64)
    return levels, np.split(np.array(features[_SAMPLES].int64_list.value), ends[:-1])
