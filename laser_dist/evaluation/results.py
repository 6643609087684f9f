"""Results of an evaluation: as values, as `results.json` and as `predictions.csv`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from laser_dist.evaluation.baselines import CONSTANT
from laser_dist.evaluation.dataset import DatasetInfo, SourceTable
from laser_dist.evaluation.metrics import (
    BitsSaved,
    PerLevel,
    PredictorScore,
    bits_saved,
    level_psnrs,
    level_rates,
    score,
)
from laser_dist.evaluation.provenance import UNKNOWN, ModelCost, Provenance
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.evaluation.sur_metrics import (
    SurComparison,
    compare_sur,
    label_noise,
    sur_at,
    viewers_curves,
)

FORMAT = 2
"""Version of `results.json`; it rises when a key changes its meaning or is dropped."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of several predictors for N sources; of cross-validation, for one fold.

    Attributes:
      levels: predictor's name to [N, 3] float64, on the dataset's scale, the networks first.
      spreads: [N, 3] float64, spreads of the first network; None if it predicts none.
      sur: predictor's name to [N, 3, Q] SUR curves; the first network's and the constant's if the
        network predicts spreads, else empty.
      half_widths: predictor's name to [N, 3], half-width of its calibrated intervals, for each that
        has them.
      costs: network's name to its cost.
    """

    levels: Mapping[str, np.ndarray]
    spreads: np.ndarray | None = None
    sur: Mapping[str, np.ndarray] = field(default_factory=dict)
    half_widths: Mapping[str, np.ndarray] = field(default_factory=dict)
    costs: Mapping[str, ModelCost] = field(default_factory=dict)

    @staticmethod
    def joined(parts: Sequence[Predictions]) -> Predictions:
        """Return the predictions for the sources of all parts, of the same predictors."""

        def join(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
            return {name: np.concatenate([each[name] for each in tables]) for name in tables[0]}

        spreads = [part.spreads for part in parts if part.spreads is not None]
        return Predictions(
            levels=join([part.levels for part in parts]),
            spreads=np.concatenate(spreads) if spreads else None,
            sur=join([part.sur for part in parts]),
            half_widths=join([part.half_widths for part in parts]),
            costs=parts[0].costs,
        )


@dataclass(frozen=True, eq=False)
class PredictorResult:
    """Predictions of one predictor for the test sources, and their errors.

    All arrays are NaN for levels that the evaluated network does not predict, also those of a
    baseline. Errors are NaN where the true level is missing too.

    Attributes:
      predicted: [N, 3] float64, on the dataset's scale.
      abs_errors: [N, 3] float64, on the dataset's scale.
      psnr_errors_db: [N, 3] float64, dB, at least 0.
      bitrate_kbps: [N, 3] float64, of the clip encoded at the predicted level; NaN for images.
      score: means and intervals.
    """

    predicted: np.ndarray
    abs_errors: np.ndarray
    psnr_errors_db: np.ndarray
    bitrate_kbps: np.ndarray
    score: PredictorScore


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResults:
    """All results of an evaluation, per source and reduced.

    Attributes:
      dataset: metadata of the dataset.
      model: name of the evaluated network in `predictors`; of several, the first.
      levels: JND levels that the network predicts, from 1, ascending; no other level is compared.
      test: the N test sources.
      true_psnr_db: [N, 3] float64, dB, of each source encoded at its true levels; NaN where a
        level is missing.
      true_bitrate_kbps: [N, 3] float64, in the same way; NaN for images.
      label_noise: for each level, how far it moves on average if its viewers are resampled; NaN
        for a level without samples.
      bits_saved: bits saved at the predicted and at the viewers' levels.
      predictors: name to result, the networks first, then the baselines.
      sur: comparison of SUR curves; None if the network predicts no spread.
      provenance: how the results were made.
    """

    dataset: DatasetInfo
    model: str
    levels: tuple[int, ...]
    test: SourceTable
    true_psnr_db: np.ndarray
    true_bitrate_kbps: np.ndarray
    label_noise: PerLevel
    bits_saved: BitsSaved
    predictors: Mapping[str, PredictorResult]
    sur: SurComparison | None = None
    provenance: Provenance = UNKNOWN

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
    predictions: Predictions,
    *,
    dataset: DatasetInfo,
    levels: tuple[int, ...] = (1, 2, 3),
    provenance: Provenance = UNKNOWN,
) -> EvaluationResults:
    """Compare predictions with the viewers' levels.

    Args:
      test: N test sources.
      curves: source id to its quality curve.
      predictions: of the networks and the baselines, including `constant`.
      dataset: metadata of the dataset.
      levels: JND levels that all networks predict, from 1; no other level is compared.
      provenance: how the predictions were made.

    Raises:
      ValueError: a prediction is not [N, 3], or not finite for one of `levels`.
    """
    ordered, scale = [curves[source_id] for source_id in test.source_ids], dataset.scale
    compared = {
        name: _only_levels(predicted, levels, test.levels.shape, name)
        for name, predicted in predictions.levels.items()
    }
    model = next(iter(compared))
    viewers = viewers_curves(test, scale)
    true_psnr_db = level_psnrs(ordered, test.levels)
    results = {
        name: PredictorResult(
            predicted,
            np.abs(predicted - test.levels),
            np.abs(level_psnrs(ordered, predicted) - true_psnr_db),
            level_rates(ordered, predicted),
            score(
                predicted,
                test.levels,
                test.group_ids,
                scale=scale,
                curves=ordered,
                sur_at_level=sur_at(viewers, predicted, scale),
                constant=compared[CONSTANT],
                others={other: levels for other, levels in compared.items() if other != name},
                half_widths=predictions.half_widths.get(name),
            ),
        )
        for name, predicted in compared.items()
    }
    sur = None
    if predictions.spreads is not None:
        sur = compare_sur(test, predictions.sur, predictions.spreads, scale)
    return EvaluationResults(
        dataset=dataset,
        model=model,
        levels=levels,
        test=test,
        true_psnr_db=true_psnr_db,
        true_bitrate_kbps=level_rates(ordered, test.levels),
        label_noise=label_noise(test, scale),
        bits_saved=bits_saved(ordered, compared[model], test.levels, scale),
        predictors=results,
        sur=sur,
        provenance=replace(provenance, models=predictions.costs),
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

    A value that does not exist, such as the error of a level that no source has, is null. A list
    of values per level always has three. Keys:

    - `format`: `FORMAT`.
    - `simulated`, `simulation`: whether viewers are simulated, and how.
    - `dataset`, `dataset_config`, `dataset_version`, `dataset_fingerprint`, `dataset_seed`, `scale`
      (QP or QF), `level_definition`, `split_by`, `sources_per_split`: metadata of the dataset.
    - `levels`: the compared levels, from 1.
    - `num_sources`, `num_groups`: number of test sources, and of groups they come from.
    - `label_noise`: for each level, the error that resampling the viewers makes.
    - `predictors`: by name, the fields of `PredictorScore`; the networks first.
    - `sur`: by name, the fields of `SurScore`; null if the network predicts no spread.
    - `bits_saved`: the fields of `BitsSaved`.
    - `provenance`: the fields of `Provenance`.
    """
    dataset = results.dataset
    sur = results.sur
    document = {
        "format": FORMAT,
        "simulated": dataset.simulated,
        "simulation": dataset.simulation,
        "dataset": dataset.name,
        "dataset_config": dataset.config,
        "dataset_version": dataset.version,
        "dataset_fingerprint": dataset.fingerprint,
        "dataset_seed": dataset.seed,
        "scale": dataset.scale.name,
        "level_definition": dataset.level_definition,
        "split_by": dataset.split_by,
        "sources_per_split": {name: len(ids) for name, ids in dataset.splits.items()},
        "levels": list(results.levels),
        "num_sources": results.num_sources,
        "num_groups": results.num_groups,
        "label_noise": results.label_noise,
        "predictors": {name: asdict(one.score) for name, one in results.predictors.items()},
        "sur": sur and {name: asdict(one.score) for name, one in sur.predictors.items()},
        "bits_saved": asdict(results.bits_saved),
        "provenance": asdict(results.provenance),
    }
    return json.dumps(_nan_to_none(document), indent=2, allow_nan=False) + "\n"


def to_csv(results: EvaluationResults) -> str:
    """Format results as the text of `predictions.csv`, one row per (source, level).

    A cell is empty where the level is missing or not predicted. Columns:

    - `source_id`, `group_id`, `jnd_index` (level, from 1).
    - `true`, `true_psnr_db`, `true_bitrate_kbps`: the viewers' level, and the PSNR and the bit rate
      there; images have no bit rate.
    - `NAME`, `NAME_abs_psnr_error_db`, `NAME_bitrate_kbps`: level, PSNR error and bit rate of each
      predictor.
    - `MODEL_spread`, `NAME_sur_distance`: if the network predicts spreads.
    """
    columns = {
        "true": results.test.levels,
        "true_psnr_db": results.true_psnr_db,
        "true_bitrate_kbps": results.true_bitrate_kbps,
    }
    columns |= {name: one.predicted for name, one in results.predictors.items()}
    columns |= {
        f"{name}_abs_psnr_error_db": one.psnr_errors_db for name, one in results.predictors.items()
    }
    columns |= {
        f"{name}_bitrate_kbps": one.bitrate_kbps for name, one in results.predictors.items()
    }
    if results.sur is not None:
        columns[f"{results.model}_spread"] = results.sur.spreads
        columns |= {
            f"{name}_sur_distance": one.distances for name, one in results.sur.predictors.items()
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
