"""Satisfied-user ratio (SUR): errors of predicted curves, and what the viewers' samples say.

Curves are compared at every quantizer of the scale that is lossy, from its lowest to its highest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from laser_dist.evaluation.dataset import SourceTable
from laser_dist.evaluation.intervals import Interval, mean_intervals
from laser_dist.evaluation.metrics import PerLevel, level_means, mean_of_present
from laser_dist.jnd.normal_sur import normal_sur_curve
from laser_dist.jnd.scale import Scale
from laser_dist.jnd.sur import level_at_sur, sur_curve, viewers_at_level


@dataclass(frozen=True)
class SurScore:
    """Mean errors of one predictor's SUR curves on the test sources; lower is better.

    Levels without samples are left out. A level without samples in any test source is NaN.

    Attributes:
      wasserstein: for each level, the mean over sources of the Wasserstein-1 distance between the
        predicted and the actual distribution of the viewers' samples, in steps of the scale.
      wasserstein_interval: its 95% interval over groups.
      mean_wasserstein: mean over all levels of all sources.
    """

    wasserstein: PerLevel
    wasserstein_interval: tuple[Interval, ...]
    mean_wasserstein: float


@dataclass(frozen=True, eq=False)
class SurErrors:
    """SUR curves of one predictor and their errors.

    Attributes:
      curves: [N, L, Q] float64 in [0, 1], predicted SUR; NaN where there is no prediction.
      distances: [N, L] float64, Wasserstein-1 distance in steps of the scale, at least 0; NaN
        where there are no samples or there is no prediction.
      score: means and intervals.
    """

    curves: np.ndarray
    distances: np.ndarray
    score: SurScore


@dataclass(frozen=True, eq=False)
class SurComparison:
    """Predicted SUR curves, compared with the viewers'.

    Attributes:
      spreads: [N, L] float64, standard deviation of the viewers' samples that the network
        predicts, in steps of the scale; NaN for a level that it does not predict.
      viewers: [N, L, Q] float64 in [0, 1], the viewers' SUR; NaN where there are no samples.
      predictors: predictor's name to its errors, the network first.
    """

    spreads: np.ndarray
    viewers: np.ndarray
    predictors: Mapping[str, SurErrors]


def compare_sur(
    test: SourceTable, curves: Mapping[str, np.ndarray], spreads: np.ndarray, scale: Scale
) -> SurComparison:
    """Compare predicted SUR curves of test sources with those of their viewers.

    Args:
      test: N test sources.
      curves: predictor's name to [N, L, Q] from `network_sur` or `constant_sur`, the network
        first. All are compared where the network has a prediction.
      spreads: [N, L], the spreads of the network.
      scale: scale of the samples.
    """
    viewers = viewers_curves(test, scale)
    network = next(iter(curves.values()))
    errors: dict[str, SurErrors] = {}
    for name, predicted in curves.items():
        compared = np.where(np.isnan(network), np.nan, predicted)
        # The integral of the difference of two distribution functions, in steps of 1.
        distances = np.abs(compared - viewers).sum(axis=-1)
        reduced = SurScore(
            wasserstein=level_means(distances),
            wasserstein_interval=mean_intervals(distances, test.group_ids),
            mean_wasserstein=float(mean_of_present(distances)),
        )
        errors[name] = SurErrors(compared, distances, reduced)
    return SurComparison(spreads=spreads, viewers=viewers, predictors=errors)


def network_sur(levels: np.ndarray, spreads: np.ndarray, scale: Scale) -> np.ndarray:
    """Return the SUR curves of normal distributions.

    Args:
      levels: [N, L], where the SUR is 75%; NaN gives NaN.
      spreads: [N, L], standard deviations.
      scale: scale of both.

    Returns:
      [N, L, Q] float64 in [0, 1].
    """
    return normal_sur_curve(levels, spreads, lossy_quantizers(scale), scale=scale)


def constant_sur(train: SourceTable, num_sources: int, scale: Scale) -> np.ndarray:
    """Return the mean SUR curve of the training viewers for every source, [num_sources, L, Q]."""
    mean = mean_of_present(viewers_curves(train, scale), axis=0)
    return np.broadcast_to(mean, (num_sources, *mean.shape))


def lossy_quantizers(scale: Scale) -> np.ndarray:
    """Return the quantizers at which curves are compared, [Q] int, ascending."""
    return np.arange(scale.lowest, scale.highest + 1)


def viewers_curves(table: SourceTable, scale: Scale) -> np.ndarray:
    """Compute the viewers' SUR at the lossy quantizers.

    Returns:
      [N, L, Q] float64 in [0, 1]; NaN where there are no samples.
    """
    quantizers = lossy_quantizers(scale)
    curves = np.full((*table.levels.shape, len(quantizers)), np.nan)
    for row, level, samples in _samples(table):
        curves[row, level] = sur_curve(samples, quantizers, scale=scale)
    return curves


def sur_at(viewers: np.ndarray, levels: np.ndarray, scale: Scale) -> np.ndarray:
    """Return the viewers' SUR at the quantizers that levels are encoded with.

    Args:
      viewers: [N, L, Q], from `viewers_curves`.
      levels: [N, L], may be fractional; NaN gives NaN.
      scale: scale of the levels.

    Returns:
      [N, L] float64 in [0, 1]; NaN where there are no samples.
    """
    quantizers = [[scale.quantizer_at(level) for level in row] for row in np.nan_to_num(levels)]
    columns = np.array(quantizers)[..., None] - scale.lowest
    found = np.take_along_axis(viewers, columns, axis=-1)[..., 0]
    return np.where(np.isnan(levels), np.nan, found)


def label_noise(table: SourceTable, scale: Scale) -> PerLevel:
    """Compute how far levels move, on average, if their viewers are resampled with replacement.

    A predictor that knows the level of all people exactly has about this error, so no predictor
    can be expected to have a lower one. The mean of the bootstrap is computed exactly, without
    random numbers: a resampled level is at most the `j`-th of `n` ordered samples if at least as
    many of `n` draws as the level needs are among the first `j`.

    If the levels are the means of their samples, a resampled one is nearly normal around the mean,
    with the variance of the samples divided by their number.

    Returns:
      Mean distance for each level, in steps of the scale; NaN for a level without samples, and for
      all if levels are neither means nor SUR levels of their samples.
    """
    noise = np.full(table.levels.shape, np.nan)
    definition = _definition(table, scale)
    for row, level, samples in _samples(table):
        num = len(samples)
        if definition == "mean":
            noise[row, level] = np.std(samples) * math.sqrt(2 / (math.pi * num))
        if definition != "sur":
            continue
        distances = np.abs(
            np.sort(scale.sign * samples) - scale.sign * level_at_sur(samples, scale=scale)
        )
        at_most = stats.binom.sf(viewers_at_level(num) - 1, num, np.arange(num + 1) / num)
        noise[row, level] = np.diff(at_most) @ distances
    return level_means(noise)


def _definition(table: SourceTable, scale: Scale) -> str | None:
    """Return what the levels of a table are of their samples, if one is off by half a step."""
    off: dict[str, list[float]] = {"sur": [], "mean": []}
    for row, level, samples in _samples(table):
        given = table.levels[row, level]
        off["sur"].append(abs(given - level_at_sur(samples, scale=scale)))
        off["mean"].append(abs(given - np.mean(samples)))
    means = {name: np.nanmean(values) for name, values in off.items() if np.isfinite(values).any()}
    close = [name for name in off if means.get(name, math.inf) <= 0.5]
    return min(close, key=means.__getitem__, default=None)


def _samples(table: SourceTable) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (row, level from 0, samples) for each level that has samples."""
    for row, by_level in enumerate(table.viewer_samples):
        for level, samples in enumerate(by_level):
            if len(samples):
                yield row, level, samples
