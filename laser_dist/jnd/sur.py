"""Satisfied-user ratio (SUR): the fraction of viewers who have not yet noticed a difference.

A sample is the quantizer at which a viewer noticed a difference: the first QP in VideoSet, the
highest quality factor in MCL-JCI. The scale defines which direction is worse.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from laser_dist.jnd.scale import LEVEL_SUR, QP, Scale


def sur_curve(
    samples: NDArray[np.integer], grid: NDArray[np.integer], *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Compute the satisfied-user ratio along a scale.

    A viewer is satisfied at a better quality than their sample: in QP while `qp < sample`, in
    quality factors while `qf > sample`. Equality counts as noticed.

    Args:
      samples: [S] int, quantizer at which each viewer noticed, in any order.
      grid: [Q] int, strictly ascending.
      scale: scale of both.

    Returns:
      [Q] float64 in [0, 1]; along Q, non-increasing in QP and non-decreasing in quality factors.

    Raises:
      ValueError: there is no viewer, an array is not one-dimensional or not of integer type, or
        `grid` is not strictly ascending.

    Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500), where the SUR is the complementary
      cumulative distribution of the samples. We use the empirical distribution instead of a fitted
      normal one.
    """
    thresholds = _integers(samples, "samples")
    positions = _integers(grid, "grid")
    if thresholds.size == 0:
        raise ValueError("samples must hold at least one viewer")
    if not np.all(positions[1:] > positions[:-1]):
        raise ValueError(f"grid must be strictly ascending, got {positions.tolist()}")
    sign = scale.sign
    num_noticed = np.searchsorted(np.sort(sign * thresholds), sign * positions, side="right")
    # One division, hence one rounding: a ratio such as 3/4 becomes the float 0.75 exactly.
    return (thresholds.size - num_noticed) / thresholds.size


def level_at_sur(
    samples: Sequence[int] | NDArray[np.integer], sur: float = LEVEL_SUR, *, scale: Scale = QP
) -> int:
    """Return the JND level of a group: the best quality at which at least `1 - sur` have noticed.

    That is the smallest QP or the largest quality factor. It is the `1 - sur` quantile of the
    samples, from the better side, by the inverted empirical distribution (Hyndman and Fan's
    definition 1), so it is always one of the samples. With the default, more than 75% of the
    viewers are satisfied at any quality better than the level, and at most 75% at the level.

    `sur` counts as the decimal number it prints as, in exact arithmetic: with 30 viewers and
    `sur=0.7`, nine are enough, although `(1 - 0.7) * 30` in floating point is above nine.

    Args:
      samples: [S] int, quantizer at which each viewer noticed, in any order.
      sur: fraction of viewers who are still satisfied just before the level, in [0, 1).
      scale: scale of the samples.

    Returns:
      The level, on the same scale.

    Raises:
      ValueError: there is no viewer, samples are not integers, or `sur` is outside [0, 1).

    Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500), whose group anchor is where 75% of the
      viewers are still satisfied.
    """
    thresholds = _integers(np.asarray(samples), "samples")
    if thresholds.size == 0:
        raise ValueError("samples must hold at least one viewer")
    if not 0.0 <= sur < 1.0:
        raise ValueError(f"sur must be in [0, 1), got {sur}")
    ordered = np.sort(scale.sign * thresholds)
    return scale.sign * int(ordered[viewers_at_level(thresholds.size, sur) - 1])


def viewers_at_level(num_viewers: int, sur: float = LEVEL_SUR) -> int:
    """Return how many of these viewers must have noticed for a quantizer to be the level."""
    needed = (1 - Fraction(repr(float(sur)))) * num_viewers
    return -(-needed.numerator // needed.denominator)


def _integers(values: NDArray[np.integer], name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, got shape {array.shape}")
    # NumPy turns an empty list into float64; the callers report that case.
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    return array.astype(np.int64)
