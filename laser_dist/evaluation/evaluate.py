"""Evaluate trained models on the test sources of a dataset."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
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
from laser_dist.evaluation.example_clips import (
    ExampleClip,
    choose_examples,
    example_clip,
    thumbnails,
)
from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.provenance import UNKNOWN, ModelCost, Provenance, collect_provenance
from laser_dist.evaluation.quality_curves import QualityCurve, read_quality_curves
from laser_dist.evaluation.results import (
    EvaluationResults,
    Predictions,
    assess,
    to_csv,
    to_json,
)
from laser_dist.evaluation.sur_metrics import constant_sur, network_sur
from laser_dist.evaluation.trained_run import TrainedRun, dataset_record, load_trained_run
from laser_dist.jnd.calibration import Residuals, half_widths, held_out_half_widths
from laser_dist.jnd.scale import NUM_LEVELS
from laser_dist.storage import join, write_text
from laser_dist.training.runs import load_run

TEST_SPLIT = "test"
TRAIN_SPLIT = "train"
REPORT, PREDICTIONS, RESULTS = "report/index.html", "predictions.csv", "results.json"


def evaluate(
    dataset_dir: Path, models: Mapping[str, Path], output: str | Path
) -> EvaluationResults:
    """Evaluate models and write `results.json`, `predictions.csv` and `report/index.html`.

    Args:
      dataset_dir: folder of one version of a built dataset.
      models: name as the user gave it to the folder of a finished run, or to a `.keras` file. The
        report shows the first one; the tables compare all.
      output: path or URL of a folder, created if missing; each file of an earlier evaluation is
        replaced atomically.

    Raises:
      UserError: a folder is not what it should be, a model predicts levels of another scale or was
        trained on test sources, or the bucket cannot be written.
      OSError: the disk cannot be written.
    """
    dataset = TfdsDataset(dataset_dir)
    runs = named([replace(load_trained_run(path), path=name) for name, path in models.items()])
    notes = tuple(note for run in runs for note in notes_on(dataset, run))
    provenance = collect_provenance(runs[0].path, runs[0].settings, notes)
    if len(runs) > 1:
        run = ", ".join(f"{run.name}: {run.path}" for run in runs)
        settings = {run.name: run.settings for run in runs}
        provenance = replace(provenance, run=run, settings=settings)
    return evaluate_on(dataset, runs, output, provenance)


def named(runs: Sequence[TrainedRun]) -> list[TrainedRun]:
    """Return the models with distinct names: `mj-lat#1`, `mj-lat#2` for two of one variant."""
    counts, seen = Counter(run.name for run in runs), Counter[str]()
    found: list[TrainedRun] = []
    for run in runs:
        seen[run.name] += 1
        is_only = counts[run.name] == 1
        found.append(run if is_only else replace(run, name=f"{run.name}#{seen[run.name]}"))
    return found


def evaluate_on(
    dataset: LabeledDataset,
    runs: Sequence[TrainedRun],
    output: str | Path,
    provenance: Provenance = UNKNOWN,
) -> EvaluationResults:
    """Evaluate loaded models of distinct names on a loaded dataset; see `evaluate`."""
    test = dataset.sources(TEST_SPLIT)
    for each in runs:
        check_comparable(dataset, each, test)
    levels = _common_levels(runs)
    train = _training_sources(dataset, levels)
    ids = (*train.source_ids, *test.source_ids)
    curves = read_quality_curves(dataset.quality_path, ids, dataset.info.scale)
    results = assess(
        test,
        curves,
        all_predictions(dataset, runs, train, test, curves),
        dataset=dataset.info,
        levels=levels,
        provenance=provenance,
    )
    write_results(results, curves, [(dataset, runs[0])], output)
    return results


def evaluate_folds(
    dataset_dir: Path, folds: Mapping[str, Path], output: str | Path, *, run: str
) -> EvaluationResults:
    """Pool the predictions of a cross-validation, and write the files of `evaluate`.

    The half-widths of the calibrated intervals, from the errors of all folds, are stored with the
    model of each. Those in the results come from the other folds.

    Args:
      dataset_dir: folder of one version of a built dataset.
      folds: location as the user knows it to the folder of each finished run.
      output: path or URL of a folder, as for `evaluate`.
      run: name of the cross-validation in the results.

    Raises:
      UserError: a folder is not what it should be, a run was trained on its test sources, or the
        bucket cannot be written.
      OSError: the disk cannot be written.
    """
    parts: list[tuple[LabeledDataset, TrainedRun]] = []
    tests: list[SourceTable] = []
    predicted: list[Predictions] = []
    for name, path in folds.items():
        splits = dataset_record(load_run(path).config, path)["splits"]
        dataset = TfdsDataset(dataset_dir, splits=splits)
        # Calibrated with its validation sources only, and maybe not at all.
        trained = replace(load_trained_run(path), path=name, half_widths=None)
        test = dataset.sources(TEST_SPLIT)
        check_comparable(dataset, trained, test)
        train = _training_sources(dataset, trained.levels)
        ids = (*train.source_ids, *test.source_ids)
        curves = read_quality_curves(dataset.quality_path, ids, dataset.info.scale)
        predicted.append(all_predictions(dataset, [trained], train, test, curves))
        parts.append((dataset, trained))
        tests.append(test)
    (dataset, trained), test = parts[0], SourceTable.joined(tests)
    pooled = Predictions.joined(predicted)
    numbers = np.repeat(np.arange(len(tests)), [len(table.source_ids) for table in tests])
    errors = pooled.levels[trained.name] - test.levels
    held_out = held_out_half_widths(errors, test.group_ids, numbers)
    _calibrate(folds.values(), errors[:, [k - 1 for k in trained.levels]], test.group_ids)
    note = (
        f"Cross-validated in {len(folds)} folds of groups: a clip is predicted by the model of its"
        " fold, which has not learned from its group."
    )
    curves = read_quality_curves(dataset.quality_path, test.source_ids, dataset.info.scale)
    results = assess(
        test,
        curves,
        replace(pooled, half_widths={**pooled.half_widths, trained.name: held_out}),
        dataset=replace(dataset.info, splits={TEST_SPLIT: test.source_ids}),
        levels=trained.levels,
        provenance=collect_provenance(run, trained.settings, (note,)),
    )
    write_results(results, curves, parts, output)
    return results


def _calibrate(run_dirs: Iterable[Path], errors: np.ndarray, group_ids: tuple[str, ...]) -> None:
    """Store all errors [N, L] with the model of each run."""
    if np.isfinite(half_widths(errors, group_ids)).all():
        for run_dir in run_dirs:
            store_residuals(load_run(run_dir).predictor_path, errors, group_ids, is_trusted=True)


def calibrate(path: Path, results: EvaluationResults) -> None:
    """Store the errors of an evaluation in the file of its model.

    Raises:
      UserError: there are too few clips or groups with one of the levels for an interval.
    """
    columns = [level - 1 for level in results.levels]
    errors = (results.network.predicted - results.test.levels)[:, columns]
    if not np.isfinite(half_widths(errors, results.test.group_ids)).all():
        raise UserError(
            f"{path} was not calibrated: the test split has too few clips or groups with a level.",
            hint="Calibrate with a dataset of 9 test clips or more, from two groups or more.",
        )
    store_residuals(path, errors, results.test.group_ids)


def store_residuals(
    path: Path, errors: np.ndarray, group_ids: Sequence[str], *, is_trusted: bool = False
) -> None:
    """Store errors in a model file, complete or not at all, for the intervals of its predictions.

    Args:
      path: `.keras` file of a predictor.
      errors: [N, L], predicted - true level of the L levels that it predicts; NaN where there is no
        level.
      group_ids: [N], group of each clip.
      is_trusted: whether the file is part of a run.

    Raises:
      UserError: the file is not a predictor.
    """
    from laser_dist.models.predictors import change_spec, load_saved_model
    from laser_dist.training.saving import save_model

    model = load_saved_model(path, is_trusted=is_trusted)
    change_spec(model, residuals=Residuals.of_clips(errors, group_ids))
    save_model(model, path)


def write_results(
    results: EvaluationResults,
    curves: Mapping[str, QualityCurve],
    parts: Sequence[tuple[LabeledDataset, TrainedRun]],
    output: str | Path,
) -> None:
    """Write the files of `evaluate`.

    Args:
      results: results to write.
      curves: source id to its quality curve, of the test sources.
      parts: the dataset and the model that the report shows; of a cross-validation, those of each
        fold. Each test source is in one of the datasets' test splits.
      output: path or URL of a folder.
    """
    chosen = choose_examples(mean_of_present(results.network.abs_errors, axis=1))
    found: dict[str, tuple[LevelFrames, TrainedRun]] = {}
    for dataset, run in parts:
        own = {results.test.source_ids[row] for row in chosen.values()}
        if len(parts) > 1:
            own.intersection_update(dataset.info.splits[TEST_SPLIT])
        if own:
            frames = dataset.middle_frames(TEST_SPLIT, own)
            found |= {source_id: (frames[source_id], run) for source_id in own}
    examples: list[ExampleClip] = []
    for rank, row in chosen.items():
        frames, run = found[results.test.source_ids[row]]
        curve = curves[frames.source_id]
        fitted = _fitted(frames, run)
        examples.append(example_clip(results, rank, row, fitted, run.backbones, curve))
    learning = parts[0][1].curves if len(parts) == 1 else ()  # of one training
    frames = (dataset.first_frames(TEST_SPLIT) for dataset, _ in parts)
    pictures = thumbnails(chain.from_iterable(frames))
    write_text(join(output, REPORT), report.render(results, learning, examples, pictures))
    write_text(join(output, PREDICTIONS), to_csv(results))
    write_text(join(output, RESULTS), to_json(results))  # last: an evaluation with it is complete


def all_predictions(
    dataset: LabeledDataset,
    runs: Sequence[TrainedRun],
    train: SourceTable,
    test: SourceTable,
    curves: Mapping[str, QualityCurve],
) -> Predictions:
    """Predict the test sources by the networks and by the baselines.

    Args:
      dataset: labeled dataset.
      runs: loaded models.
      train: training sources, which the baselines are fitted on.
      test: N test sources.
      curves: source id to its quality curve, of all these sources.
    """
    scale = dataset.info.scale
    found = {run.name: network_predictions(dataset, run, test.source_ids) for run in runs}
    levels, spreads, _ = found[runs[0].name]
    widths = {CONSTANT: constant_half_widths(train)}
    for run in runs:
        if run.half_widths is not None:
            widths[run.name] = np.full(NUM_LEVELS, np.nan)
            widths[run.name][[level - 1 for level in run.levels]] = run.half_widths
    sur: dict[str, np.ndarray] = {}
    if spreads is not None:
        sur[runs[0].name] = network_sur(levels, spreads, scale)
        sur[CONSTANT] = constant_sur(train, len(test.source_ids), scale)
    return Predictions(
        levels={
            **{name: each for name, (each, *_) in found.items()},
            **baseline_predictions(train, test, curves, scale),
        },
        spreads=spreads,
        sur=sur,
        half_widths={
            name: np.tile(each, (len(test.source_ids), 1)) for name, each in widths.items()
        },
        costs={
            run.name: ModelCost(
                num_parameters=run.num_parameters, seconds_per_frame=found[run.name][2]
            )
            for run in runs
        },
    )


def check_comparable(dataset: LabeledDataset, run: TrainedRun, test: SourceTable) -> None:
    """Check that an evaluation of the model on the dataset is meaningful.

    Raises:
      UserError: the dataset has no test sources or another scale than the model, or the model has
        seen one of the test sources, by their ids.
    """
    name = dataset.info.full_name
    if not test.source_ids:
        raise UserError(
            f"Dataset {name} has no test sources.", hint="Build a dataset with more sources."
        )
    if run.scale != dataset.info.scale.name:
        raise UserError(
            f"{run.path} predicts levels in {run.scale}, but {name} has levels in"
            f" {dataset.info.scale.name}.",
            hint=f"Name a dataset with levels in {run.scale}, or another model.",
        )
    splits = dataset.info.splits
    seen = {id_ for split, ids in splits.items() if split != TEST_SPLIT for id_ in ids}
    if (
        run.dataset.partition("/")[0] == dataset.info.name
        and run.simulated == dataset.info.simulated
    ):
        seen |= run.trained_on  # elsewhere, the same ids name other sources
    if overlap := sorted(seen.intersection(test.source_ids)):
        raise UserError(
            f"{run.path} was trained on {len(overlap)} of the test sources, for example"
            f" {overlap[0]}.",
            hint="Rebuild the dataset so that each source is in one split, and train again.",
        )


def notes_on(dataset: LabeledDataset, run: TrainedRun) -> list[str]:
    """Return what a reader must know of a model that was not trained on this dataset."""
    name, simulated = dataset.info.full_name, []
    if run.simulated and not dataset.info.simulated:
        simulated = [f"{run.name} was trained on simulated viewers, not on people."]
    if not run.fingerprint:
        return [
            f"{run.name} is a model file, which does not record its training sources: it may have"
            f" been trained on test sources of {name}.",
            *simulated,
        ]
    notes = []
    if run.fingerprint != dataset.info.fingerprint:
        notes.append(
            f"{run.name} was trained on {run.dataset} (fingerprint {run.fingerprint}), not on this"
            f" dataset. It predicts from frames scaled to {run.width}x{run.height}."
        )
    return notes + simulated


def _common_levels(runs: Sequence[TrainedRun]) -> tuple[int, ...]:
    """Return the levels that all models predict, ascending.

    Raises:
      UserError: there is none.
    """
    levels = set(runs[0].levels).intersection(*(run.levels for run in runs))
    if not levels:
        names = ", ".join(run.path for run in runs)
        raise UserError(
            f"{names} have no JND level in common.", hint="Name models that predict the same level."
        )
    return tuple(sorted(levels))


def _training_sources(dataset: LabeledDataset, levels: tuple[int, ...]) -> SourceTable:
    """Return the sources for fitting the baselines.

    Raises:
      UserError: no training source has one of these levels.
    """
    train = dataset.sources(TRAIN_SPLIT)
    has_level = np.any(np.isfinite(train.levels), axis=0)
    if missing := [f"JND{level}" for level in levels if not has_level[level - 1]]:
        raise UserError(
            f"No training source of {dataset.info.full_name} has {' or '.join(missing)}, so the"
            " baselines cannot be fitted.",
            hint="Build a dataset with more sources.",
        )
    return train


def network_predictions(
    dataset: LabeledDataset, run: TrainedRun, source_ids: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Predict the levels of the test sources, as means over the stored frames of each.

    Returns:
      Levels and spreads, [N, 3] float64 each, in the order of `source_ids`; NaN for levels that
      the network does not predict. Spreads are None if it predicts none. And the seconds per
      frame, as in `ModelCost`.
    """
    row_of = {source_id: row for row, source_id in enumerate(source_ids)}
    num_outputs = 2 if run.spread else 1
    totals = np.zeros((len(source_ids), len(run.levels), num_outputs))
    counts = np.zeros((len(source_ids), 1, 1))
    times: list[tuple[int, float]] = []
    for frame_ids, raw in dataset.raw_batches(TEST_SPLIT):
        frames = fit_frames(raw, width=run.width, height=run.height)
        started = time.perf_counter()
        predicted = run.predict(frames)
        times.append((len(frames), time.perf_counter() - started))
        rows = [row_of[source_id] for source_id in frame_ids]
        np.add.at(totals, rows, predicted.reshape(len(rows), len(run.levels), num_outputs))
        np.add.at(counts, rows, 1)
    means = np.full((len(source_ids), NUM_LEVELS, num_outputs), np.nan)
    means[:, [level - 1 for level in run.levels]] = totals / counts
    # The model is compiled in the first batch, and again in a last one of another size.
    timed = [seconds / count for count, seconds in times[1:] if count == times[0][0]]
    spreads = means[..., 1] if run.spread else None
    return means[..., 0], spreads, statistics.median(timed) if timed else math.nan


def _fitted(frames: LevelFrames, run: TrainedRun) -> LevelFrames:
    """Scale frames to the input size of the run's models, so that all can be compared."""
    fit = partial(fit_frames, width=run.width, height=run.height)
    return replace(frames, raw=fit(frames.raw[None])[0], encoded=fit(frames.encoded))
