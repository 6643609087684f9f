"""How far the predicted curves of satisfied viewers are from the viewers' own.

Only of a model that gives a spread beside each level. The curves are compared on all quantizers of
the scale that code with loss, from its lowest to its highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from laser_dist.evaluation.baselines import CONSTANT
from laser_dist.evaluation.metrics import Interval, bootstrap_interval, mean_of_present
from laser_dist.evaluation.sources import SourceTable
from laser_dist.jnd.normal_sur import normal_sur_curve
from laser_dist.jnd.scale import Scale
from laser_dist.jnd.sur import sur_curve


@dataclass(frozen=True)
class SurScore:
    """What one predictor's curves reach on the test sources; lower is better throughout.

    Levels without samples count nowhere. A level of which no test source has samples is NaN.

    Attributes:
      abs_difference: per level, the mean over sources and quantizers of |predicted share of
        satisfied viewers - the viewers' own|, in [0, 1].
      abs_difference_interval: its 95 % bootstrap interval over sources.
      mean_abs_difference: mean over all levels of all sources.
    """

    abs_difference: tuple[float, ...]
    abs_difference_interval: tuple[Interval, ...]
    mean_abs_difference: float


@dataclass(frozen=True, eq=False)
class SurErrors:
    """One predictor's curves against the viewers'.

    Attributes:
      curves: [N, L, Q] float64 in [0, 1], predicted shares at the lossy quantizers; NaN where
        there is no prediction.
      differences: [N, L] float64 in [0, 1], mean over the quantizers; NaN where there are no
        samples or no prediction.
      score: means and intervals.
    """

    curves: np.ndarray
    differences: np.ndarray
    score: SurScore


@dataclass(frozen=True, eq=False)
class SurComparison:
    """The network's curves, and a constant one, against the viewers'.

    Attributes:
      spreads: [N, L] float64, as the network says, in steps of the scale; NaN of levels that it
        does not predict.
      viewers: [N, L, Q] float64, the viewers' own curves; NaN where there are no samples.
      predictors: key to errors: the network, `constant`.
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
    """Compare curves of test sources with those of their viewers.

    Args:
      train: the training sources: the mean of their curves is the constant one.
      test: N sources.
      levels: [N, L], as the network says; NaN of a level that it does not predict.
      spreads: [N, L], the same.
      model: the network's key.
      scale: of all.
      seed: of the bootstrap.
    """
    grid = lossy_quantizers(scale)
    true = viewers_curves(test, scale)
    constant = mean_of_present(viewers_curves(train, scale), axis=0)
    constant = np.where(np.isnan(levels)[..., None], np.nan, constant)
    own = normal_sur_curve(levels, spreads, grid, scale=scale)
    return SurComparison(
        spreads=spreads,
        viewers=true,
        predictors={
            model: sur_errors(own, true, seed=seed),
            CONSTANT: sur_errors(constant, true, seed=seed),
        },
    )


def lossy_quantizers(scale: Scale) -> np.ndarray:
    """[Q] int, on which curves are compared."""
    return np.arange(scale.lowest, scale.highest + 1)


def viewers_curves(table: SourceTable, scale: Scale) -> np.ndarray:
    """Shares of satisfied viewers at the lossy quantizers, of N sources and L levels.

    Returns:
      [N, L, Q] float64; NaN where there are no samples.
    """
    grid = lossy_quantizers(scale)
    curves = np.full((*table.levels.shape, len(grid)), np.nan)
    for row, samples in enumerate(table.viewer_samples):
        for level, of_level in enumerate(samples):
            if len(of_level):
                curves[row, level] = sur_curve(of_level, grid, scale=scale)
    return curves


def sur_errors(predicted: np.ndarray, true: np.ndarray, *, seed: int) -> SurErrors:
    """Reduce curves [N, L, Q] to differences and their means; NaN where one of them is missing."""
    differences = np.abs(predicted - true).mean(axis=-1)
    means = mean_of_present(differences, axis=0)
    return SurErrors(
        curves=predicted,
        differences=differences,
        score=SurScore(
            abs_difference=tuple(float(mean) for mean in means),
            abs_difference_interval=bootstrap_interval(differences, seed=seed),
            mean_abs_difference=float(mean_of_present(differences)),
        ),
    )
