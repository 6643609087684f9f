"""What is known of a dataset's sources without looking at their frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np


@dataclass(frozen=True, eq=False)
class SourceTable:
    """Facts of N sources.

    Attributes:
      source_ids: [N], each once.
      group_ids: [N]; clips cut from one recording or photograph share a group.
      levels: [N, L] float64, JND1..3 on the dataset's scale; NaN where one is missing.
      activity: [N, 2] float64, spatial and temporal information (ITU-T P.910) of the whole clip.
      viewer_samples: for each of N sources and L levels, int64 [S], where on the scale each of S
        viewers noticed; none where the level is missing. Empty where the dataset has no samples.
    """

    source_ids: tuple[str, ...]
    group_ids: tuple[str, ...]
    levels: np.ndarray
    activity: np.ndarray
    viewer_samples: tuple[tuple[np.ndarray, ...], ...] = ()

    def part(self, rows: np.ndarray, levels: np.ndarray) -> SourceTable:
        """Some sources ([N] bool) and some of their levels ([L] bool)."""
        return SourceTable(
            source_ids=tuple(compress(self.source_ids, rows)),
            group_ids=tuple(compress(self.group_ids, rows)),
            levels=self.levels[np.ix_(rows, levels)],
            activity=self.activity[rows],
            viewer_samples=tuple(
                tuple(compress(samples, levels)) for samples in compress(self.viewer_samples, rows)
            ),
        )


def samples_of(levels: np.ndarray, samples: Sequence[Sequence[int]]) -> tuple[np.ndarray, ...]:
    """One source's samples as `SourceTable` has them: none of a level that is missing.

    Args:
      levels: [L], NaN where one is missing.
      samples: of L levels.
    """
    return tuple(
        np.asarray([] if np.isnan(level) else of_level, np.int64)
        for level, of_level in zip(levels, samples, strict=True)
    )
