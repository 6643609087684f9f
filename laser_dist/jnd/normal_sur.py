"""The satisfied-user ratio (SUR) of normally distributed samples.

Two numbers describe it: the level, at which the SUR is 75%, and the spread, the standard deviation
of the viewers' samples. The mean is 0.6745 spreads worse than the level: above it in QP, below it
in quality factors.

Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500), whose SUR curve is the complementary
cumulative distribution of a normal one, with the level where it falls to 75%.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laser_dist.jnd.scale import LEVEL_SUR, QP, Scale

_erfc = np.frompyfunc(math.erfc, 1, 1)


def sample_mean(level: ArrayLike, spread: ArrayLike, *, scale: Scale = QP) -> NDArray[np.float64]:
    """Return the mean of the viewers' samples, 0.6745 spreads worse than the level.

    Args:
      level: any shape, on the scale.
      spread: broadcasts with `level`, 0 or more, in steps of the scale.
      scale: scale of both.

    Returns:
      float64 of the broadcast shape.
    """
    return _level_at(level, spread, 0.5, scale)


def normal_sur(
    level: ArrayLike, spread: ArrayLike, positions: ArrayLike, *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Compute the SUR at any position between the quantizers: the continuous curve.

    It is 0.75 at the level. For integer quantizers use `normal_sur_curve`.

    Args:
      level: any shape, on the scale; NaN gives NaN.
      spread: broadcasts with `level`, 0 or more. At 0 all viewers notice at the level: the SUR is
        0 there and 1 at any better quality.
      positions: broadcasts with both.
      scale: scale of all three.

    Returns:
      float64 in [0, 1] of the broadcast shape; non-increasing in QP, non-decreasing in quality
      factors.

    Raises:
      ValueError: a spread is below 0.
    """
    width = _non_negative(spread)
    # Relative to the level instead of the mean, so the SUR at a level has no rounding error.
    beyond = scale.sign * (np.asarray(positions, np.float64) - np.asarray(level, np.float64))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quantile = beyond / width
    quantile = np.where((width == 0) & (beyond == 0), np.inf, quantile)
    return _ndtr(_ndtri(LEVEL_SUR) - quantile)


def normal_sur_curve(
    level: ArrayLike, spread: ArrayLike, grid: NDArray[np.integer], *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Compute the SUR at integer quantizers, comparable with `sur.sur_curve`.

    A viewer's sample is an integer that represents half a step to either side. Viewers with the
    sample `q` have noticed at `q`, so the continuous curve is read half a step worse than `q`: at
    `q + 0.5` in QP, at `q - 0.5` in quality factors. The resulting curve has the mean of samples
    drawn from the distribution, and falls to 75% where `sur.level_at_sur` says: at the level
    rounded to the nearest integer.

    Args:
      level: any shape [...], on the scale; NaN gives NaN.
      spread: [...], 0 or more.
      grid: [Q] int, quantizers.
      scale: scale of all three.

    Returns:
      float64 [..., Q] in [0, 1].

    Raises:
      ValueError: a spread is below 0.
    """
    positions = np.asarray(grid, np.float64) + scale.sign * 0.5
    levels, spreads = np.asarray(level)[..., None], np.asarray(spread)[..., None]
    return normal_sur(levels, spreads, positions, scale=scale)


def normal_level(
    level: ArrayLike, spread: ArrayLike, sur: float, *, scale: Scale = QP
) -> NDArray[np.float64]:
    """Return the position at which `normal_sur` has a given value.

    At 0.75 it is the level itself, not rounded. An encoder needs `Scale.quantizer_at` of it.

    Args:
      level: any shape, on the scale.
      spread: broadcasts with `level`, 0 or more.
      sur: satisfied-user ratio in (0, 1); the larger, the better the quality.
      scale: scale of `level` and `spread`.

    Returns:
      float64 of the broadcast shape, not clipped to the scale.

    Raises:
      ValueError: a spread is below 0, or `sur` is outside (0, 1).
    """
    if not 0.0 < sur < 1.0:
        raise ValueError(f"sur must be in (0, 1), got {sur}")
    return _level_at(level, spread, sur, scale)


def _level_at(level: ArrayLike, spread: ArrayLike, sur: float, scale: Scale) -> NDArray[np.float64]:
    worse = _ndtri(LEVEL_SUR) - _ndtri(sur)
    return np.asarray(level, np.float64) + scale.sign * worse * _non_negative(spread)


def _non_negative(spread: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(spread, np.float64)
    if np.any(values < 0):
        raise ValueError(f"spread must be 0 or more, got {values.min()}")
    return values


def _ndtr(quantile: ArrayLike) -> NDArray[np.float64]:
    """Return the cumulative normal distribution at a quantile."""
    # Not by SciPy, which an installation that only predicts and encodes does not have.
    return np.asarray(0.5 * _erfc(-np.asarray(quantile, np.float64) / math.sqrt(2)), np.float64)


def _ndtri(probability: float) -> float:
    """Return the inverse of `_ndtr`."""
    return NormalDist().inv_cdf(probability)
