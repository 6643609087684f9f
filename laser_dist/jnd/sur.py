"""Satisfied user ratio (SUR): which share of the viewers has not yet noticed a difference.

The scale here is the quantiser (QP, higher = worse). A viewer's `jnd_qp` is the first QP at which
that viewer noticed a difference, as VideoSet's samples are.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def sur_curve(jnd_qps: NDArray[np.integer], qps: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of viewers who have not yet noticed a difference, per QP.

    A viewer is satisfied while `qp < jnd_qp`; equality counts as noticed.

    Args:
      jnd_qps: [S] int, the first QP that each viewer noticed, in any order.
      qps: [Q] int, strictly ascending.

    Returns:
      [Q] float64 in [0, 1], non-increasing along Q.

    Raises:
      ValueError: no viewer given, not one-dimensional, not of integer type, or `qps` not strictly
        ascending.

    Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500), where the SUR is the complementary
      cumulative distribution of the samples; here it is the empirical one, no normal distribution
      is fitted.
    """
    thresholds = _integers(jnd_qps, "jnd_qps")
    grid = _integers(qps, "qps")
    if thresholds.size == 0:
        raise ValueError("sur_curve: expected at least one viewer in jnd_qps, got none")
    if not np.all(grid[1:] > grid[:-1]):
        raise ValueError(f"sur_curve: expected qps strictly ascending, got {grid.tolist()}")
    num_noticed = np.searchsorted(np.sort(thresholds), grid, side="right")
    # One division, hence one rounding: a share such as 3/4 comes out as the float 0.75 exactly.
    return (thresholds.size - num_noticed) / thresholds.size


def level_at_share(samples: Sequence[int] | NDArray[np.integer], satisfied: float = 0.75) -> int:
    """JND level of a group: the smallest QP at which at least `1 - satisfied` have noticed.

    That is the `1 - satisfied` quantile of the samples by the inverted empirical distribution
    (Hyndman and Fan's definition 1), so it always is one of the samples. With the default it is the
    25th percentile: at every QP below the level more than 75 % of the viewers are satisfied, at the
    level itself 75 % of them at most.

    The share is taken as the decimal number it prints as, in exact arithmetic: of 30 viewers and
    with `satisfied=0.7`, nine are enough, where `(1 - 0.7) * 30` in floating point is above nine.

    Args:
      samples: [S] int, the first QP that each viewer noticed, in any order.
      satisfied: share of viewers that is still satisfied just below the level, 0 <= share < 1.

    Returns:
      The level, a QP.

    Raises:
      ValueError: no viewer given, samples not integers, or `satisfied` outside [0, 1).

    Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500), who take the group's anchor where 75 % of
      the viewers are still satisfied.
    """
    thresholds = _integers(np.asarray(samples), "samples")
    if thresholds.size == 0:
        raise ValueError("level_at_share: expected at least one viewer in samples, got none")
    if not 0.0 <= satisfied < 1.0:
        raise ValueError(f"level_at_share: expected 0 <= satisfied < 1, got {satisfied}")
    needed = (1 - Fraction(repr(float(satisfied)))) * thresholds.size
    num_noticed = -(-needed.numerator // needed.denominator)
    return int(np.sort(thresholds)[num_noticed - 1])


def _integers(values: NDArray[np.integer], name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {array.shape}")
    # An empty list becomes float64 in NumPy; the callers name that case better than we could.
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: expected integers, got {array.dtype}")
    return array.astype(np.int64)
