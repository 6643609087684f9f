"""Satisfied user ratio (SUR): which share of the viewers has not yet noticed a difference.

A sample is where on a quantizer's scale a viewer noticed a difference: the first QP, as VideoSet's
samples are, or the highest quality factor, as MCL-JCI's. The scale says which way is worse.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from laser_dist.jnd.scale import QP, Scale


def sur_curve(
    samples: NDArray[np.integer], grid: NDArray[np.integer], *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Share of viewers who have not yet noticed a difference, along a scale.

    A viewer is satisfied while better than their sample: in QP while `qp < sample`, in quality
    factors while `qf > sample`. Equality counts as noticed.

    Args:
      samples: [S] int, where each viewer noticed, in any order.
      grid: [Q] int, strictly ascending.
      scale: of both.

    Returns:
      [Q] float64 in [0, 1]; along Q it does not increase in QP, does not decrease in quality
      factors.

    Raises:
      ValueError: no viewer given, not one-dimensional, not of integer type, or `grid` not strictly
        ascending.

    Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500), where the SUR is the complementary
      cumulative distribution of the samples; here it is the empirical one, no normal distribution
      is fitted.
    """
    thresholds = _integers(samples, "samples")
    places = _integers(grid, "grid")
    if thresholds.size == 0:
        raise ValueError("sur_curve: expected at least one viewer in samples, got none")
    if not np.all(places[1:] > places[:-1]):
        raise ValueError(f"sur_curve: expected grid strictly ascending, got {places.tolist()}")
    sign = _sign(scale)
    num_noticed = np.searchsorted(np.sort(sign * thresholds), sign * places, side="right")
    # One division, hence one rounding: a share such as 3/4 comes out as the float 0.75 exactly.
    return (thresholds.size - num_noticed) / thresholds.size


def level_at_share(
    samples: Sequence[int] | NDArray[np.integer], satisfied: float = 0.75, *, scale: Scale = QP
) -> int:
    """JND level of a group: the best quality at which at least `1 - satisfied` have noticed.

    In QP that is the smallest, in quality factors the largest. It is the `1 - satisfied` quantile
    of the samples, from the better side, by the inverted empirical distribution (Hyndman and Fan's
    definition 1), so it always is one of the samples. With the default: wherever the quality is
    better than the level more than 75 % of the viewers are satisfied, at the level itself 75 % of
    them at most.

    The share is taken as the decimal number it prints as, in exact arithmetic: of 30 viewers and
    with `satisfied=0.7`, nine are enough, where `(1 - 0.7) * 30` in floating point is above nine.

    Args:
      samples: [S] int, where each viewer noticed, in any order.
      satisfied: share of viewers that is still satisfied just before the level, 0 <= share < 1.
      scale: of the samples.

    Returns:
      The level, on the same scale.

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
    sign = _sign(scale)
    return sign * int(np.sort(sign * thresholds)[num_noticed - 1])


def _sign(scale: Scale) -> int:
    """What a scale is multiplied by so that higher is worse."""
    return 1 if scale.higher_is_worse else -1


def _integers(values: NDArray[np.integer], name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {array.shape}")
    # An empty list becomes float64 in NumPy; the callers name that case better than we could.
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: expected integers, got {array.dtype}")
    return array.astype(np.int64)
