"""The results of an evaluation as files: all of it as JSON, source by source as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from laser_dist.evaluation.results import EvaluationResults
from laser_dist.evaluation.sur_errors import SurComparison


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
        "levels": list(results.levels),
        "seed": results.seed,
        "num_sources": results.num_sources,
        "num_groups": results.num_groups,
        "sources_per_split": {name: len(ids) for name, ids in dataset.splits.items()},
        "predictors": {name: asdict(one.score) for name, one in results.predictors.items()},
        "sur": None if results.sur is None else _sur_scores(results.sur),
        "bits_saved": asdict(results.bits_saved),
        "run": results.run,
        "versions": dict(results.versions),
    }
    return json.dumps(_nan_to_none(document), indent=2, allow_nan=False) + "\n"


def to_csv(results: EvaluationResults) -> str:
    """Text of `predictions.csv`: a row per (source, level), a column per predictor.

    Where a level is missing, so are its errors, and where the network does not predict it, so are
    all predictions: the cells are empty. A network that gives spreads has columns of them, and of
    how far its curve of satisfied viewers is from theirs. With it and `results.json` every figure
    of the report can be drawn again.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = _columns(results)
    writer.writerow(["source_id", "group_id", "jnd_index", *columns])
    for row, source_id in enumerate(results.test.source_ids):
        for level in range(results.test.levels.shape[1]):
            writer.writerow(
                [source_id, results.test.group_ids[row], level + 1]
                + [_cell(table[row, level]) for table in columns.values()]
            )
    return text.getvalue()


def _columns(results: EvaluationResults) -> dict[str, np.ndarray]:
    """Title to [N, 3] values."""
    columns = {"true": results.test.levels, "true_psnr_db": results.true_psnr_db}
    columns |= {name: one.predicted for name, one in results.predictors.items()}
    columns |= {
        f"{name}_abs_psnr_error_db": one.errors.psnr_db for name, one in results.predictors.items()
    }
    if results.sur is not None:
        columns[f"{results.model}_spread"] = results.sur.spreads
        columns |= {
            f"{name}_abs_sur_difference": one.differences
            for name, one in results.sur.predictors.items()
        }
    return columns


def _sur_scores(sur: SurComparison) -> dict[str, Any]:
    return {name: asdict(one.score) for name, one in sur.predictors.items()}


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
