"""Calibrated intervals of predicted levels, by conformal prediction.

A level's interval is the prediction plus and minus a half-width, the largest error of most clips
that the predictor has not learned from.

Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005. The clips of a group
have similar errors, so we differ: the quantile of the errors is the one whose half-width, computed
from the other groups, contains the wanted share of the clips of a group that was left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.9
"""Share of new clips whose level is inside the interval."""


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
    groups = np.asarray(group_ids)
    return np.array([_half_width(column, groups, coverage) for column in np.abs(errors).T])


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


def _half_width(sizes: NDArray[np.floating], groups: NDArray[np.str_], coverage: float) -> float:
    """Return the half-width for absolute errors [N] of clips of these groups [N]."""
    present = ~np.isnan(sizes)
    sizes, groups = sizes[present], groups[present]
    names = np.unique(groups)
    # The largest of n errors is above the next one with probability n / (n + 1) only.
    if len(names) < 2 or len(sizes) < coverage / (1 - coverage) - 1e-9:
        return float("nan")
    ranks = np.empty(len(sizes))
    for name in names:
        own = groups == name
        others = np.sort(sizes[~own])
        ranks[own] = np.searchsorted(others, sizes[own]) / len(others)
    needed = np.quantile(ranks, coverage, method="higher")
    return float(np.quantile(sizes, needed, method="higher"))
