"""Results of an evaluation: as values, as `results.json` and as `predictions.csv`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from laser_dist.evaluation.baselines import CONSTANT
from laser_dist.evaluation.dataset import DatasetInfo, SourceTable
from laser_dist.evaluation.metrics import (
    BitsSaved,
    PredictorScore,
    abs_psnr_errors,
    bits_saved,
    score,
)
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.evaluation.sur_metrics import SurComparison


@dataclass(frozen=True, eq=False)
class PredictorResult:
    """Predictions of one predictor for the test sources, and their errors.

    All arrays are NaN for levels that the evaluated network does not predict, also those of a
    baseline. Errors are NaN where the true level is missing too.

    Attributes:
      predicted: [N, 3] float64, on the dataset's scale.
      abs_errors: [N, 3] float64, on the dataset's scale.
      psnr_errors_db: [N, 3] float64, dB, at least 0.
      score: means and intervals.
    """

    predicted: np.ndarray
    abs_errors: np.ndarray
    psnr_errors_db: np.ndarray
    score: PredictorScore


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResults:
    """All results of an evaluation, per source and reduced.

    Attributes:
      dataset: metadata of the dataset.
      seed: random seed of the bootstrap.
      model: name of the evaluated network in `predictors`.
      levels: JND levels that the network predicts, from 1, ascending; no other level is compared.
      test: the N test sources, sorted by source id.
      true_psnr_db: [N, 3] float64, dB, of each source encoded at its true levels; NaN where a
        level is missing.
      bits_saved: bits saved at the predicted and at the viewers' levels.
      predictors: name to result, the network first, then the baselines.
      sur: comparison of SUR curves; None if the network predicts no spread.
      versions: package name to version.
      run: path of the run, as the user named it.
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
    def network(self) -> PredictorResult:
        """Return the result of the evaluated network."""
        return self.predictors[self.model]

    @property
    def num_sources(self) -> int:
        """Return the number of test sources."""
        return len(self.test.source_ids)

    @property
    def num_groups(self) -> int:
        """Return the number of recordings or photographs that the test sources come from."""
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
      test: N test sources.
      curves: source id to its quality curve.
      predictions: predictor's name to [N, 3] levels, including `constant` and `model`. All are
        compared on the levels that `model` predicts.
      dataset: metadata of the dataset.
      model: name of the network.
      seed: random seed of the bootstrap.
      levels: JND levels that the network predicts, from 1.
      sur: comparison of SUR curves, if the network predicts a spread.
      versions: package name to version.
      run: path of the run.

    Raises:
      ValueError: a prediction is not [N, 3], or not finite for one of `levels`.
    """
    ordered = [curves[source_id] for source_id in test.source_ids]
    compared = {
        name: _only_levels(predicted, levels, test.levels.shape, name)
        for name, predicted in predictions.items()
    }
    abs_errors = {name: np.abs(predicted - test.levels) for name, predicted in compared.items()}
    results: dict[str, PredictorResult] = {}
    for name, predicted in compared.items():
        psnr_errors_db = abs_psnr_errors(ordered, predicted, test.levels)
        reduced = score(
            abs_errors[name], psnr_errors_db, abs_errors[CONSTANT], test.group_ids, seed=seed
        )
        results[name] = PredictorResult(predicted, abs_errors[name], psnr_errors_db, reduced)
    return EvaluationResults(
        dataset=dataset,
        seed=seed,
        model=model,
        levels=levels,
        test=test,
        true_psnr_db=np.stack(
            [c.psnr_at(row) for c, row in zip(ordered, test.levels, strict=True)]
        ),
        bits_saved=bits_saved(ordered, compared[model], test.levels, dataset.scale),
        predictors=results,
        sur=sur,
        versions=dict(versions or {}),
        run=run,
    )


def _only_levels(
    predicted: np.ndarray, levels: tuple[int, ...], shape: tuple[int, ...], name: str
) -> np.ndarray:
    """Return a copy of predictions that is NaN for all but these levels (from 1)."""
    columns = [level - 1 for level in levels]
    if predicted.shape != shape or not np.isfinite(predicted[:, columns]).all():
        raise ValueError(
            f"predictions of {name} must be finite and of shape {shape}: the shape is"
            f" {predicted.shape}, {np.count_nonzero(~np.isfinite(predicted))} are not finite"
        )
    kept = np.full(shape, np.nan)
    kept[:, columns] = predicted[:, columns]
    return kept


def to_json(results: EvaluationResults) -> str:
    """Format results as the text of `results.json`.

    A value that does not exist, such as the error of a level that no source has, is null. Keys:

    - `simulated`, `simulation`: whether viewers are simulated, and how.
    - `dataset`, `dataset_config`, `dataset_version`, `dataset_fingerprint`, `dataset_seed`, `scale`
      (QP or QF), `level_definition`, `sources_per_split`: metadata of the dataset.
    - `run`, `levels`, `seed`, `versions`: the run, its levels (from 1), the bootstrap seed, package
      versions.
    - `num_sources`, `num_groups`: number of test sources, and of recordings or photographs they
      come from.
    - `predictors`: by name, the fields of `PredictorScore`; the network first.
    - `sur`: by name, the fields of `SurScore`; null if the network predicts no spread.
    - `bits_saved`: the fields of `BitsSaved`.
    """
    dataset = results.dataset
    sur = results.sur
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
        "levels": list(results.levels),
        "seed": results.seed,
        "num_sources": results.num_sources,
        "num_groups": results.num_groups,
        "sources_per_split": {name: len(ids) for name, ids in dataset.splits.items()},
        "predictors": {name: asdict(one.score) for name, one in results.predictors.items()},
        "sur": sur and {name: asdict(one.score) for name, one in sur.predictors.items()},
        "bits_saved": asdict(results.bits_saved),
        "run": results.run,
        "versions": dict(results.versions),
    }
    return json.dumps(_nan_to_none(document), indent=2, allow_nan=False) + "\n"


def to_csv(results: EvaluationResults) -> str:
    """Format results as the text of `predictions.csv`, one row per (source, level).

    A cell is empty where the level is missing or not predicted. With this file and `results.json`
    every plot of the report can be drawn again. Columns:

    - `source_id`, `group_id`, `jnd_index` (level, from 1).
    - `true`, `true_psnr_db`: the viewers' level, and the PSNR there.
    - `NAME`, `NAME_abs_psnr_error_db`: level and PSNR error of each predictor.
    - `MODEL_spread`, `NAME_abs_sur_difference`: if the network predicts spreads.
    """
    columns = {"true": results.test.levels, "true_psnr_db": results.true_psnr_db}
    columns |= {name: one.predicted for name, one in results.predictors.items()}
    columns |= {
        f"{name}_abs_psnr_error_db": one.psnr_errors_db for name, one in results.predictors.items()
    }
    if results.sur is not None:
        columns[f"{results.model}_spread"] = results.sur.spreads
        columns |= {
            f"{name}_abs_sur_difference": one.differences
            for name, one in results.sur.predictors.items()
        }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source_id", "group_id", "jnd_index", *columns])
    for row, source_id in enumerate(results.test.source_ids):
        for level in range(results.test.levels.shape[1]):
            values = [table[row, level] for table in columns.values()]
            cells = [f"{value:.4f}" if math.isfinite(value) else "" for value in values]
            writer.writerow([source_id, results.test.group_ids[row], level + 1, *cells])
    return text.getvalue()


def _nan_to_none(value: Any) -> Any:
    """Replace values that are not finite, which JSON cannot represent, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _nan_to_none(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(part) for part in value]
    return value
