"""The satisfied user ratio (SUR) where a normal distribution stands for the viewers' samples.

Two numbers say all of it: the level, at which 75 % of the viewers are satisfied, and the spread,
the standard deviation of their samples. The mean lies 0.6745 spreads beyond the level, on its worse
side: above it in QP, below it in quality factors.

Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500), whose SUR curve is the complementary
cumulative distribution of a normal one, with the level where it falls to 75 %.
"""

# SciPy ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from laser_dist.jnd.scale import QP, Scale

LEVEL_SHARE = 0.75
"""Share of the viewers who are satisfied at a level: what makes it one."""


def sample_mean(level: ArrayLike, spread: ArrayLike, *, scale: Scale = QP) -> NDArray[np.float64]:
    """Mean of the viewers' samples, `level` 0.6745 spreads better than it.

    Args:
      level: any shape, on the scale.
      spread: of a shape that broadcasts with it, 0 or more, in steps of the scale.
      scale: of both.

    Returns:
      float64, of the shape that both broadcast to.
    """
    return _level_at(level, spread, 0.5, scale)


def normal_sur(
    level: ArrayLike, spread: ArrayLike, places: ArrayLike, *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Share of satisfied viewers at any place between the quantizers: the continuous curve.

    It is 0.75 at the level. On whole quantizers take `normal_sur_curve`.

    Args:
      level: any shape, on the scale; NaN gives NaN.
      spread: of a shape that broadcasts with it, 0 or more. At 0 all notice at the level, where
        nobody is satisfied: better than it the share is 1.
      places: of a shape that broadcasts with both, where to read.
      scale: of all three.

    Returns:
      float64 in [0, 1], of the shape that all three broadcast to; along the places it does not
      increase in QP, does not decrease in quality factors.

    Raises:
      ValueError: a spread below 0.
    """
    sign = 1.0 if scale.higher_is_worse else -1.0
    width = _not_negative(spread)
    # Subtracted from the level and not from the mean, so that a level's own share has no rounding.
    beyond = sign * (np.asarray(places, np.float64) - np.asarray(level, np.float64))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quantile = beyond / width
    quantile = np.where((width == 0) & (beyond == 0), np.inf, quantile)
    return _ndtr(_ndtri(LEVEL_SHARE) - quantile)


def normal_sur_curve(
    level: ArrayLike, spread: ArrayLike, grid: NDArray[np.integer], *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Share of satisfied viewers at whole quantizers, to be held beside `sur.sur_curve`.

    A viewer's sample is a whole number, which stands for half a step to either side of it. Those
    whose sample is `q` have noticed at `q`, so the continuous curve is read half a step worse than
    `q`: at `q + 0.5` in QP, at `q - 0.5` in quality factors. Read so, the curve has the mean of the
    samples whose mean the distribution has, and falls to 75 % where `sur.level_at_share` says:
    at the level rounded to the nearest whole number.

    Args:
      level: any shape [...], on the scale; NaN gives NaN.
      spread: [...], 0 or more.
      grid: [Q] int, quantizers.
      scale: of all three.

    Returns:
      float64 [..., Q] in [0, 1].

    Raises:
      ValueError: a spread below 0.
    """
    half = 0.5 if scale.higher_is_worse else -0.5
    places = np.asarray(grid, np.float64) + half
    levels, spreads = np.asarray(level)[..., None], np.asarray(spread)[..., None]
    return normal_sur(levels, spreads, places, scale=scale)


def normal_level(
    level: ArrayLike, spread: ArrayLike, satisfied: float, *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Where `normal_sur` has a given share: the level that fewer, or more, viewers agree to.

    At 0.75 it is the level itself, not rounded. An encoder is given the nearest whole number.

    Args:
      level: any shape, on the scale.
      spread: of a shape that broadcasts with it, 0 or more.
      satisfied: share of the viewers, 0 < share < 1; the larger, the better the quality.
      scale: of both.

    Returns:
      float64, of the shape that both broadcast to; not held within the scale.

    Raises:
      ValueError: a spread below 0, or `satisfied` outside (0, 1).
    """
    if not 0.0 < satisfied < 1.0:
        raise ValueError(f"normal_level: expected 0 < satisfied < 1, got {satisfied}")
    return _level_at(level, spread, satisfied, scale)


def _level_at(
    level: ArrayLike, spread: ArrayLike, satisfied: float, scale: Scale
) -> NDArray[np.float64]:
    worse = float(_ndtri(LEVEL_SHARE) - _ndtri(satisfied))
    sign = 1.0 if scale.higher_is_worse else -1.0
    return np.asarray(level, np.float64) + sign * worse * _not_negative(spread)


def _not_negative(spread: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(spread, np.float64)
    if np.any(values < 0):
        raise ValueError(f"spread: expected 0 or more, got {values.min()}")
    return values


def _ndtr(quantile: ArrayLike) -> NDArray[np.float64]:
    """The normal distribution's share below a quantile."""
    return np.asarray(special.ndtr(quantile), np.float64)


def _ndtri(share: float) -> NDArray[np.float64]:
    """The inverse of `_ndtr`."""
    return np.asarray(special.ndtri(share), np.float64)
