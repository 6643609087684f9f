"""The results of an evaluation as values, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from laser_dist.evaluation.baselines import SourceTable
from laser_dist.evaluation.bits_saved import BitsSaved, bits_saved
from laser_dist.evaluation.dataset import DatasetInfo
from laser_dist.evaluation.metrics import (
    PredictorScore,
    SourceErrors,
    abs_psnr_errors,
    score,
)
from laser_dist.evaluation.quality_table import QualityCurve

CONSTANT = "constant"
RIDGE = "si-ti-ridge"


@dataclass(frozen=True, eq=False)
class PredictorResult:
    """One predictor on the test sources.

    Attributes:
      predicted: [N, 3] float64, on the dataset's scale.
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
      test: the N test sources, sorted by source id.
      true_psnr_db: [N, 3] float64, dB, of each source coded at its true levels; NaN where one is
        missing.
      bits_saved: what coding at the levels saves.
      predictors: key to result: the network, `constant`, `si-ti-ridge`.
      versions: package to version, of the evaluation.
      run: path of the evaluated run, as the user gave it.
    """

    dataset: DatasetInfo
    seed: int
    model: str
    test: SourceTable
    true_psnr_db: np.ndarray
    bits_saved: BitsSaved
    predictors: Mapping[str, PredictorResult]
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
    versions: Mapping[str, str] | None = None,
    run: str = "",
) -> EvaluationResults:
    """Compare predictions with the viewers' levels.

    Args:
      test: the N test sources.
      curves: source id to its quality curve.
      predictions: predictor's key to [N, 3] levels; `constant` and `model` must be among them.
      dataset: what was evaluated on.
      model: the key of the network.
      seed: of the bootstrap.
      versions: package to version.
      run: the evaluated run, for the record.

    Raises:
      ValueError: a prediction is not [N, 3] or holds a value that is not finite.
    """
    ordered = [curves[source_id] for source_id in test.source_ids]
    errors: dict[str, SourceErrors] = {}
    for name, predicted in predictions.items():
        if predicted.shape != test.levels.shape or not np.isfinite(predicted).all():
            raise ValueError(
                f"predictions of {name}: expected finite values {test.levels.shape},"
                f" got {predicted.shape} with"
                f" {np.count_nonzero(~np.isfinite(predicted))} not finite"
            )
        errors[name] = SourceErrors(
            levels=np.abs(predicted - test.levels),
            psnr_db=abs_psnr_errors(ordered, predicted, test.levels),
        )
    results = {
        name: PredictorResult(
            predicted=predictions[name],
            errors=own,
            score=score(own, errors[CONSTANT], test.group_ids, seed=seed),
        )
        for name, own in errors.items()
    }
    return EvaluationResults(
        dataset=dataset,
        seed=seed,
        model=model,
        test=test,
        true_psnr_db=np.stack([c.psnr_at(q) for c, q in zip(ordered, test.levels, strict=True)]),
        bits_saved=bits_saved(ordered, predictions[model], test.levels, dataset.scale),
        predictors=results,
        versions=dict(versions or {}),
        run=run,
    )


def to_json(results: EvaluationResults) -> str:
    """Text of `results.json`; a figure that does not exist is null."""
    dataset = results.dataset
    document = {
        "simulated": dataset.simulated,
        "simulation": dataset.simulation,
        "dataset": dataset.name,
        "dataset_config": dataset.config,
        "dataset_version": dataset.version,
        "dataset_fingerprint": dataset.fingerprint,
        "dataset_seed": dataset.seed,
        "scale": dataset.scale.name,
        "level_definition": dataset.level_definition,
        "seed": results.seed,
        "num_sources": results.num_sources,
        "num_groups": results.num_groups,
        "sources_per_split": {name: len(ids) for name, ids in dataset.splits.items()},
        "predictors": {name: asdict(one.score) for name, one in results.predictors.items()},
        "bits_saved": asdict(results.bits_saved),
        "run": results.run,
        "versions": dict(results.versions),
    }
    return json.dumps(_nan_to_none(document), indent=2, allow_nan=False) + "\n"


def to_csv(results: EvaluationResults) -> str:
    """Text of `predictions.csv`: a row per (source, level), a column per predictor.

    Where a level is missing, so are its errors: the cells are empty.
    With it and `results.json` every figure of the report can be drawn again.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(results.predictors)
    writer.writerow(
        ["source_id", "group_id", "jnd_index", "true", "true_psnr_db", *names]
        + [f"{name}_abs_psnr_error_db" for name in names]
    )
    for row, source_id in enumerate(results.test.source_ids):
        for level in range(results.test.levels.shape[1]):
            values = [results.test.levels, results.true_psnr_db]
            values += [one.predicted for one in results.predictors.values()]
            values += [one.errors.psnr_db for one in results.predictors.values()]
            writer.writerow(
                [source_id, results.test.group_ids[row], level + 1]
                + [_cell(table[row, level]) for table in values]
            )
    return text.getvalue()


def _cell(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _nan_to_none(value: Any) -> Any:
    """JSON knows no NaN, and a file that claims to be JSON should be read by every reader."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _nan_to_none(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(part) for part in value]
    return value
