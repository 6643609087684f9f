"""Errors of predicted satisfied-user-ratio (SUR) curves, for models that predict a spread.

Curves are compared at every quantizer of the scale that is lossy, from its lowest to its highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from laser_dist.evaluation.baselines import CONSTANT
from laser_dist.evaluation.dataset import SourceTable
from laser_dist.evaluation.metrics import Interval, bootstrap_interval, mean_of_present
from laser_dist.jnd.normal_sur import normal_sur_curve
from laser_dist.jnd.scale import Scale
from laser_dist.jnd.sur import sur_curve


@dataclass(frozen=True)
class SurScore:
    """Mean errors of one predictor's SUR curves on the test sources; lower is better.

    Levels without samples are left out. A level without samples in any test source is NaN.

    Attributes:
      abs_difference: for each level, the mean over sources and quantizers of
        |predicted SUR - viewers' SUR|, in [0, 1].
      abs_difference_interval: its 95% bootstrap interval over sources.
      mean_abs_difference: mean over all levels of all sources.
    """

    abs_difference: tuple[float, ...]
    abs_difference_interval: tuple[Interval, ...]
    mean_abs_difference: float


@dataclass(frozen=True, eq=False)
class SurErrors:
    """SUR curves of one predictor and their errors.

    Attributes:
      curves: [N, L, Q] float64 in [0, 1], predicted SUR; NaN where there is no prediction.
      differences: [N, L] float64 in [0, 1], mean over the quantizers; NaN where there are no
        samples or there is no prediction.
      score: means and intervals.
    """

    curves: np.ndarray
    differences: np.ndarray
    score: SurScore


@dataclass(frozen=True, eq=False)
class SurComparison:
    """The network's SUR curves and a constant baseline, compared with the viewers'.

    Attributes:
      spreads: [N, L] float64, predicted standard deviation of the viewers' samples, in steps of
        the scale; NaN for a level that the network does not predict.
      viewers: [N, L, Q] float64 in [0, 1], the viewers' SUR; NaN where there are no samples.
      predictors: predictor's name to its errors: the network, `constant`.
    """

    spreads: np.ndarray
    viewers: np.ndarray
    predictors: Mapping[str, SurErrors]


def compare_sur(
    train: SourceTable,
    test: SourceTable,
    levels: np.ndarray,
    spreads: np.ndarray,
    *,
    model: str,
    scale: Scale,
    seed: int,
) -> SurComparison:
    """Compare predicted SUR curves of test sources with those of their viewers.

    Args:
      train: training sources; the mean of their viewers' curves is the constant baseline.
      test: N test sources.
      levels: [N, L], predicted levels; NaN for a level that the network does not predict.
      spreads: [N, L], predicted spreads, likewise.
      model: the network's name.
      scale: scale of the levels and samples.
      seed: random seed of the bootstrap.
    """
    viewers = viewers_curves(test, scale)
    constant = mean_of_present(viewers_curves(train, scale), axis=0)
    constant = np.where(np.isnan(levels)[..., None], np.nan, constant)
    network = normal_sur_curve(levels, spreads, lossy_quantizers(scale), scale=scale)
    return SurComparison(
        spreads=spreads,
        viewers=viewers,
        predictors={
            model: _errors(network, viewers, seed=seed),
            CONSTANT: _errors(constant, viewers, seed=seed),
        },
    )


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
    for row, samples_by_level in enumerate(table.viewer_samples):
        for level, samples in enumerate(samples_by_level):
            if len(samples):
                curves[row, level] = sur_curve(samples, quantizers, scale=scale)
    return curves


def _errors(predicted: np.ndarray, viewers: np.ndarray, *, seed: int) -> SurErrors:
    differences = np.abs(predicted - viewers).mean(axis=-1)
    return SurErrors(
        curves=predicted,
        differences=differences,
        score=SurScore(
            abs_difference=tuple(mean_of_present(differences, axis=0).tolist()),
            abs_difference_interval=bootstrap_interval(differences, seed=seed),
            mean_abs_difference=float(mean_of_present(differences)),
        ),
    )
