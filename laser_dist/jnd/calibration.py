"""Calibrated intervals of predicted levels, by conformal prediction.

A level's interval is the prediction plus and minus a half-width, the largest error of most clips
that the predictor has not learned from.

Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005. The clips of a group
have similar errors, so we differ: the quantile of the errors is the one whose half-width, computed
from the other groups, contains the wanted share of the clips of a group that was left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.9
"""Share of new clips whose level is inside the interval."""

_DIGITS = 2  # of stored errors


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Errors of a predictor for N clips that it has not learned from, stored with the model.

    Attributes:
      errors: [N] of [L], predicted - true level in steps of the scale; None without a level.
      groups: [N], number of the group of each clip.

    Raises:
      ValueError: the numbers of clips or of levels differ, or a value is not finite.
    """

    errors: tuple[tuple[float | None, ...], ...]
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = {len(row) for row in self.errors}
        if len(self.errors) != len(self.groups) or len(lengths) != 1:
            raise ValueError("residuals must have a group, and an error per level, for each clip")
        given = [value for row in self.errors for value in row if value is not None]
        if not all(math.isfinite(value) for value in [*given, *self.groups]):
            raise ValueError("residuals must be finite")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Residuals":
        """Return residuals from plain values, as in a file, where tuples are lists."""
        return cls(errors=tuple(map(tuple, values["errors"])), groups=tuple(values["groups"]))

    @classmethod
    def of_clips(cls, errors: NDArray[np.floating], group_ids: Sequence[str]) -> "Residuals":
        """Return residuals from arrays; arguments as for `half_widths`."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(group_ids))}
        rows = [
            tuple(None if math.isnan(value) else round(float(value), _DIGITS) for value in row)
            for row in errors
        ]
        return cls(errors=tuple(rows), groups=tuple(numbers[name] for name in group_ids))

    @property
    def num_levels(self) -> int:
        """Number of levels L."""
        return len(self.errors[0])

    def half_widths(self, coverage: float = COVERAGE) -> NDArray[np.float64]:
        """Return the half-width of the interval of each level, as the function of this name."""
        return half_widths(*self._arrays(), coverage=coverage)

    def margins(self, share: float) -> NDArray[np.float64]:
        """Return by how much to lower the levels so that a share of new clips is not above its own.

        Args:
          share: of the clips, in (0, 1).

        Returns:
          [L], in steps of the scale; NaN as in `half_widths`.
        """
        return bounds(*self._arrays(), share)

    def shares_above(self, margin: float) -> NDArray[np.float64]:
        """Return the share of these clips, in [0, 1], whose prediction less a margin is too high.

        Args:
          margin: in steps of the scale.

        Returns:
          [L]; NaN for a level that no clip has.
        """
        columns = [row[np.isfinite(row)] for row in self._arrays()[0].T]
        return np.array([np.mean(each > margin) if len(each) else np.nan for each in columns])

    def _arrays(self) -> tuple[NDArray[np.float64], list[str]]:
        return np.array(self.errors, np.float64), [str(group) for group in self.groups]


def half_widths(
    errors: NDArray[np.floating], group_ids: Sequence[str], *, coverage: float = COVERAGE
) -> NDArray[np.float64]:
    """Compute the half-width of the interval of each level.

    Args:
      errors: [N, L], predicted - true level of clips that the predictor has not learned from; NaN
        where there is no level.
      group_ids: [N], the group of each clip.
      coverage: share of the clips of new groups to be inside the interval, in (0, 1).

    Returns:
      [L], at least 0, in steps of the scale; NaN for a level of fewer than two groups, or of fewer
      clips than any interval of this coverage needs: 9 for 90%.
    """
    return bounds(np.abs(errors), group_ids, coverage)


def held_out_half_widths(
    errors: NDArray[np.floating],
    group_ids: Sequence[str],
    folds: NDArray[np.integer],
    *,
    coverage: float = COVERAGE,
) -> NDArray[np.float64]:
    """Compute the half-widths of each fold of a cross-validation from the other folds.

    Args:
      errors: [N, L], predicted - true level, each predicted by the model of its own fold.
      group_ids: [N], the group of each clip; no group is in two folds.
      folds: [N], number of the fold of each clip.
      coverage: as in `half_widths`.

    Returns:
      [N, L], for each clip those of its fold.
    """
    groups = np.asarray(group_ids)
    found = np.empty(errors.shape)
    for fold in np.unique(folds):
        others = folds != fold
        found[~others] = half_widths(errors[others], groups[others].tolist(), coverage=coverage)
    return found


def bounds(
    values: NDArray[np.floating], group_ids: Sequence[str], share: float
) -> NDArray[np.float64]:
    """Return the bound of each column that a share of the clips of a new group does not exceed.

    Args:
      values: [N, L], of N clips; NaN where there is none.
      group_ids: [N], the group of each clip.
      share: of the clips, in (0, 1).

    Returns:
      [L], NaN as in `half_widths`.
    """
    groups = np.asarray(group_ids)
    return np.array([_bound(column, groups, share) for column in values.T])


def _bound(values: NDArray[np.floating], groups: NDArray[np.str_], share: float) -> float:
    present = ~np.isnan(values)
    values, groups = values[present], groups[present]
    names = np.unique(groups)
    # The largest of n values is above the next one with probability n / (n + 1) only.
    if len(names) < 2 or len(values) < share / (1 - share) - 1e-9:
        return float("nan")
    ranks = np.empty(len(values))
    for name in names:
        own = groups == name
        others = np.sort(values[~own])
        ranks[own] = np.searchsorted(others, values[own]) / len(others)
    needed = np.quantile(ranks, share, method="higher")
    return float(np.quantile(values, needed, method="higher"))
