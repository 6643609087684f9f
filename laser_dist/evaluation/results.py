"""The results of an evaluation as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from laser_dist.evaluation.baselines import CONSTANT
from laser_dist.evaluation.bits_saved import BitsSaved, bits_saved
from laser_dist.evaluation.dataset import DatasetInfo
from laser_dist.evaluation.metrics import (
    PredictorScore,
    SourceErrors,
    abs_psnr_errors,
    score,
)
from laser_dist.evaluation.quality_table import QualityCurve
from laser_dist.evaluation.sources import SourceTable
from laser_dist.evaluation.sur_errors import SurComparison


@dataclass(frozen=True, eq=False)
class PredictorResult:
    """One predictor on the test sources.

    Attributes:
      predicted: [N, 3] float64, on the dataset's scale; NaN of levels that the network does not
        predict, whoever's the prediction is.
      errors: per source.
      score: means and intervals.
    """

    predicted: np.ndarray
    errors: SourceErrors
    score: PredictorScore


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResults:
    """Everything that was found, per source and reduced.

    Attributes:
      dataset: what was evaluated on.
      seed: of the bootstrap.
      model: the key in `predictors` of the network under evaluation.
      levels: which JND levels it predicts, from 1, ascending; the others are compared nowhere.
      test: the N test sources, sorted by source id.
      true_psnr_db: [N, 3] float64, dB, of each source coded at its true levels; NaN where one is
        missing.
      bits_saved: what coding at the levels saves.
      predictors: key to result: the network, then the baselines.
      sur: curves of satisfied viewers; None of a network that gives no spread.
      versions: package to version, of the evaluation.
      run: path of the evaluated run, as the user gave it.
    """

    dataset: DatasetInfo
    seed: int
    model: str
    levels: tuple[int, ...]
    test: SourceTable
    true_psnr_db: np.ndarray
    bits_saved: BitsSaved
    predictors: Mapping[str, PredictorResult]
    sur: SurComparison | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    run: str = ""

    @property
    def num_sources(self) -> int:
        """Number of test sources."""
        return len(self.test.source_ids)

    @property
    def num_groups(self) -> int:
        """Number of recordings or photographs the test sources come from."""
        return len(set(self.test.group_ids))


def assess(
    test: SourceTable,
    curves: Mapping[str, QualityCurve],
    predictions: Mapping[str, np.ndarray],
    *,
    dataset: DatasetInfo,
    model: str,
    seed: int,
    levels: tuple[int, ...] = (1, 2, 3),
    sur: SurComparison | None = None,
    versions: Mapping[str, str] | None = None,
    run: str = "",
) -> EvaluationResults:
    """Compare predictions with the viewers' levels.

    Args:
      test: the N test sources.
      curves: source id to its quality curve.
      predictions: predictor's key to [N, 3] levels; `constant` and `model` must be among them.
        All are compared on the levels that `model` predicts, and on no other.
      dataset: what was evaluated on.
      model: the key of the network.
      seed: of the bootstrap.
      levels: that the network predicts, from 1.
      sur: its curves of satisfied viewers, if it gives a spread.
      versions: package to version.
      run: the evaluated run, for the record.

    Raises:
      ValueError: a prediction is not [N, 3] or holds a value that is not finite, of `levels`.
    """
    ordered = [curves[source_id] for source_id in test.source_ids]
    compared = {
        name: _of_levels(predicted, levels, test.levels.shape, name)
        for name, predicted in predictions.items()
    }
    errors = {
        name: SourceErrors(
            levels=np.abs(predicted - test.levels),
            psnr_db=abs_psnr_errors(ordered, predicted, test.levels),
        )
        for name, predicted in compared.items()
    }
    results = {
        name: PredictorResult(
            predicted=compared[name],
            errors=own,
            score=score(own, errors[CONSTANT], test.group_ids, seed=seed),
        )
        for name, own in errors.items()
    }
    return EvaluationResults(
        dataset=dataset,
        seed=seed,
        model=model,
        levels=levels,
        test=test,
        true_psnr_db=np.stack([c.psnr_at(q) for c, q in zip(ordered, test.levels, strict=True)]),
        bits_saved=bits_saved(ordered, compared[model], test.levels, dataset.scale),
        predictors=results,
        sur=sur,
        versions=dict(versions or {}),
        run=run,
    )


def _of_levels(
    predicted: np.ndarray, levels: tuple[int, ...], shape: tuple[int, ...], name: str
) -> np.ndarray:
    """A prediction of these levels (from 1), NaN of the others."""
    columns = [level - 1 for level in levels]
    if predicted.shape != shape or not np.isfinite(predicted[:, columns]).all():
        raise ValueError(
            f"predictions of {name}: expected finite values {shape}, got {predicted.shape} with"
            f" {np.count_nonzero(~np.isfinite(predicted))} not finite"
        )
    kept = np.full(shape, np.nan)
    kept[:, columns] = predicted[:, columns]
    return kept
