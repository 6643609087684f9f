"""Evaluate a finished run on the test sources of its dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from laser_dist.errors import UserError
from laser_dist.evaluation import report
from laser_dist.evaluation.baselines import (
    CONSTANT,
    baseline_predictions,
    constant_half_widths,
)
from laser_dist.evaluation.dataset import (
    LabeledDataset,
    LevelFrames,
    SourceTable,
    TfdsDataset,
    fit_frames,
)
from laser_dist.evaluation.example_clips import choose_examples, example_clip
from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.provenance import UNKNOWN, Provenance, collect_provenance
from laser_dist.evaluation.quality_curves import QualityCurve, read_quality_curves
from laser_dist.evaluation.results import (
    EvaluationResults,
    Predictions,
    assess,
    to_csv,
    to_json,
)
from laser_dist.evaluation.sur_metrics import constant_sur, network_sur
from laser_dist.evaluation.trained_run import TrainedRun, load_trained_run
from laser_dist.jnd.scale import NUM_LEVELS
from laser_dist.storage import join, write_text

TEST_SPLIT = "test"
TRAIN_SPLIT = "train"
REPORT, PREDICTIONS, RESULTS = "report/index.html", "predictions.csv", "results.json"


def evaluate(
    dataset_dir: Path, run_dir: Path, output: str | Path, *, run: str = ""
) -> EvaluationResults:
    """Evaluate a run and write `results.json`, `predictions.csv` and `report/index.html`.

    Args:
      dataset_dir: folder of one version of a built dataset.
      run_dir: folder of a finished run.
      output: path or URL of a folder, created if missing; each file of an earlier evaluation is
        replaced atomically.
      run: name of the run in the results (default: its folder).

    Raises:
      UserError: a folder is not what it should be, the run was trained on another dataset or on
        test sources, or the bucket cannot be written.
      OSError: the disk cannot be written.
    """
    dataset = TfdsDataset(dataset_dir)
    trained = load_trained_run(run_dir)
    trained = replace(trained, path=run or trained.path)
    provenance = collect_provenance(trained.path, trained.settings)
    return evaluate_on(dataset, trained, output, provenance)


def evaluate_on(
    dataset: LabeledDataset,
    run: TrainedRun,
    output: str | Path,
    provenance: Provenance = UNKNOWN,
) -> EvaluationResults:
    """Evaluate a loaded run on a loaded dataset; see `evaluate`."""
    test = dataset.sources(TEST_SPLIT)
    check_comparable(dataset, run, test)
    train = _training_sources(dataset, run)
    ids = (*train.source_ids, *test.source_ids)
    curves = read_quality_curves(dataset.quality_path, ids, dataset.info.scale)
    results = assess(
        test,
        curves,
        all_predictions(dataset, run, train, test, curves),
        dataset=dataset.info,
        levels=run.levels,
        provenance=provenance,
    )
    chosen = choose_examples(mean_of_present(results.network.abs_errors, axis=1))
    frames = dataset.middle_frames(TEST_SPLIT, [test.source_ids[row] for row in chosen.values()])
    examples = [
        example_clip(results, rank, row, _fitted(frames[test.source_ids[row]], run), run.backbones)
        for rank, row in chosen.items()
    ]
    write_text(join(output, REPORT), report.render(results, run.curves, examples))
    write_text(join(output, PREDICTIONS), to_csv(results))
    write_text(join(output, RESULTS), to_json(results))  # last: an evaluation with it is complete
    return results


def all_predictions(
    dataset: LabeledDataset,
    run: TrainedRun,
    train: SourceTable,
    test: SourceTable,
    curves: Mapping[str, QualityCurve],
) -> Predictions:
    """Predict the test sources by the network and by the baselines.

    Args:
      dataset: labeled dataset.
      run: loaded run.
      train: training sources, which the baselines are fitted on.
      test: N test sources.
      curves: source id to its quality curve, of all these sources.
    """
    scale = dataset.info.scale
    levels, spreads = network_predictions(dataset, run, test.source_ids)
    sur: dict[str, np.ndarray] = {}
    if spreads is not None:
        sur[run.variant] = network_sur(levels, spreads, scale)
        sur[CONSTANT] = constant_sur(train, len(test.source_ids), scale)
    widths = {CONSTANT: constant_half_widths(train)}
    if run.half_widths is not None:
        widths[run.variant] = np.full(NUM_LEVELS, np.nan)
        widths[run.variant][[level - 1 for level in run.levels]] = run.half_widths
    return Predictions(
        levels={run.variant: levels, **baseline_predictions(train, test, curves, scale)},
        spreads=spreads,
        sur=sur,
        half_widths={name: np.tile(each, (len(levels), 1)) for name, each in widths.items()},
    )


def check_comparable(dataset: LabeledDataset, run: TrainedRun, test: SourceTable) -> None:
    """Check that an evaluation of the run on the dataset is meaningful.

    Raises:
      UserError: the dataset has no test sources or is not the run's, or the run has seen one of
        the test sources.
    """
    name = dataset.info.full_name
    if not test.source_ids:
        raise UserError(
            f"Dataset {name} has no test sources.", hint="Build a dataset with more sources."
        )
    if run.fingerprint != dataset.info.fingerprint:
        raise UserError(
            f"{run.path} was trained on another dataset: its fingerprint is {run.fingerprint},"
            f" that of {name} is {dataset.info.fingerprint}.",
            hint="Name the dataset that the run was trained on, or train on this one.",
        )
    splits = dataset.info.splits
    seen = run.trained_on.union(*(ids for split, ids in splits.items() if split != TEST_SPLIT))
    if overlap := sorted(seen.intersection(test.source_ids)):
        raise UserError(
            f"{run.path} was trained on {len(overlap)} of the test sources, for example"
            f" {overlap[0]}.",
            hint="Rebuild the dataset so that each source is in one split, and train again.",
        )


def _training_sources(dataset: LabeledDataset, run: TrainedRun) -> SourceTable:
    """Return the sources for fitting the baselines.

    Raises:
      UserError: no training source has one of the run's levels.
    """
    train = dataset.sources(TRAIN_SPLIT)
    has_level = np.any(np.isfinite(train.levels), axis=0)
    if missing := [f"JND{level}" for level in run.levels if not has_level[level - 1]]:
        raise UserError(
            f"No training source of {dataset.info.full_name} has {' or '.join(missing)}, so the"
            " baselines cannot be fitted.",
            hint="Build a dataset with more sources.",
        )
    return train


def network_predictions(
    dataset: LabeledDataset, run: TrainedRun, source_ids: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predict the levels of the test sources, as means over the stored frames of each.

    Returns:
      Levels and spreads, [N, 3] float64 each, in the order of `source_ids`; NaN for levels that
      the network does not predict. Spreads are None if it predicts none.
    """
    row_of = {source_id: row for row, source_id in enumerate(source_ids)}
    num_outputs = 2 if run.spread else 1
    totals = np.zeros((len(source_ids), len(run.levels), num_outputs))
    counts = np.zeros((len(source_ids), 1, 1))
    for frame_ids, raw in dataset.raw_batches(TEST_SPLIT):
        predicted = run.predict(fit_frames(raw, width=run.width, height=run.height))
        rows = [row_of[source_id] for source_id in frame_ids]
        np.add.at(totals, rows, predicted.reshape(len(rows), len(run.levels), num_outputs))
        np.add.at(counts, rows, 1)
    means = np.full((len(source_ids), NUM_LEVELS, num_outputs), np.nan)
    means[:, [level - 1 for level in run.levels]] = totals / counts
    return means[..., 0], means[..., 1] if run.spread else None


def _fitted(frames: LevelFrames, run: TrainedRun) -> LevelFrames:
    """Scale frames to the input size of the run's models, so that all can be compared."""
    fit = partial(fit_frames, width=run.width, height=run.height)
    return replace(frames, raw=fit(frames.raw[None])[0], encoded=fit(frames.encoded))
