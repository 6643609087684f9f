"""Evaluate a finished run on the test sources of the dataset it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from laser_dist.errors import UserError
from laser_dist.evaluation import exemplars, report
from laser_dist.evaluation.baselines import baseline_predictions
from laser_dist.evaluation.dataset import FramePair, JudgedDataset, TfdsDataset, fit_frames
from laser_dist.evaluation.learning_curves import Curve
from laser_dist.evaluation.metrics import SourceMeans, mean_of_present
from laser_dist.evaluation.quality_table import read_quality_curves
from laser_dist.evaluation.results import EvaluationResults, assess
from laser_dist.evaluation.results_files import to_csv, to_json
from laser_dist.evaluation.sources import SourceTable
from laser_dist.evaluation.sur_errors import SurComparison, compare_sur
from laser_dist.evaluation.writing import write_atomically
from laser_dist.jnd.scale import NUM_LEVELS

TEST_SPLIT = "test"
TRAIN_SPLIT = "train"
REPORT, PREDICTIONS, RESULTS = "report/index.html", "predictions.csv", "results.json"
# In this order: where the last one stands, the evaluation is whole.
WRITTEN = (REPORT, PREDICTIONS, RESULTS)
_PACKAGES = ("laser-jnd", "tensorflow", "keras", "scikit-learn", "numpy", "av")

FramesToLevels = Callable[[np.ndarray], np.ndarray]
FramesToFrames = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRun:
    """A finished run as evaluation sees it: functions and facts, no trainer.

    Attributes:
      path: as the user named it.
      variant: its predictor's key in the results, for example `mj-lat`.
      fingerprint: of the dataset it was trained on.
      trained_on: ids of the sources it saw, training and validation.
      width: of the frames its models take; stored frames of another size are scaled to it.
      height: of the frames its models take.
      predict: uint8 [B, H, W, 3] raw frames to levels [B, L], or to levels and spreads [B, L, 2].
      levels: which JND levels the L columns are, from 1, ascending.
      spread: whether each level comes with the standard deviation of the viewers' samples.
      backbones: level, from 1, to what makes uint8 raw frames to frames as coded at that level, of
        the same shape and type; of fewer levels, or of none, where the run has no such model.
      curves: what training logged.
    """

    path: str
    variant: str
    fingerprint: str
    trained_on: frozenset[str]
    width: int
    height: int
    predict: FramesToLevels
    levels: tuple[int, ...] = (1, 2, 3)
    spread: bool = False
    backbones: Mapping[int, FramesToFrames] = field(default_factory=dict)
    curves: tuple[Curve, ...] = field(default=())


def evaluate(
    dataset_dir: Path, run_dir: Path, output_dir: Path, seed: int, *, run: str = ""
) -> EvaluationResults:
    """Evaluate a run and write `results.json`, `predictions.csv` and `report/index.html`.

    Args:
      dataset_dir: folder of one version of a built dataset.
      run_dir: a finished run.
      output_dir: made if missing; files of an earlier evaluation are replaced, each at once.
      seed: of the bootstrap.
      run: what the results call the run (default: its folder).

    Raises:
      UserError: either folder is not what it should be, the run was trained on another dataset or
        on test sources, or the output cannot be written.
    """
    from laser_dist.evaluation.trained_run import load_trained_run

    dataset = TfdsDataset(dataset_dir)
    trained = load_trained_run(run_dir)
    return evaluate_on(dataset, replace(trained, path=run or trained.path), output_dir, seed)


def evaluate_on(
    dataset: JudgedDataset, run: TrainedRun, output_dir: Path, seed: int
) -> EvaluationResults:
    """As `evaluate`, with both already loaded."""
    test = dataset.sources(TEST_SPLIT)
    check_comparable(dataset, run, test)
    train = _training_sources(dataset, run)
    curves = read_quality_curves(dataset.quality_path, test.source_ids, dataset.info.scale)
    answers = network_predictions(dataset, run, test.source_ids)
    results = assess(
        test,
        curves,
        {run.variant: answers.levels, **baseline_predictions(train, test.activity)},
        dataset=dataset.info,
        model=run.variant,
        levels=run.levels,
        sur=_sur(dataset, run, train, test, answers, seed),
        seed=seed,
        versions=package_versions(),
        run=run.path,
    )
    chosen = exemplars.choose(
        mean_of_present(results.predictors[run.variant].errors.levels, axis=1)
    )
    pairs = {
        source_id: fitted(pair, run)
        for source_id, pair in dataset.frame_pairs(
            TEST_SPLIT, [test.source_ids[row] for row in chosen.values()]
        ).items()
    }
    page = report.render(
        report.ReportInputs(
            results=results,
            curves=run.curves,
            exemplars=exemplars.make_exemplars(results, chosen, pairs, run.backbones),
        )
    )
    for name, content in zip(WRITTEN, (page, to_csv(results), to_json(results)), strict=True):
        write_atomically(output_dir / name, content)
    return results


def check_comparable(dataset: JudgedDataset, run: TrainedRun, test: SourceTable) -> None:
    """Refuse a comparison that would mean nothing.

    Raises:
      UserError: no test source, another dataset, or test sources the run has seen.
    """
    what = f"evaluation of {run.path}"
    if not test.source_ids:
        raise UserError(what, "test sources in the dataset", "none", "Build a larger dataset.")
    if run.fingerprint != dataset.info.fingerprint:
        raise UserError(
            what,
            f"the dataset it was trained on, fingerprint {run.fingerprint}",
            f"{dataset.info.name} with fingerprint {dataset.info.fingerprint}",
            "Name that dataset, or train on this one.",
        )
    splits = dataset.info.splits
    seen = run.trained_on.union(*(ids for name, ids in splits.items() if name != TEST_SPLIT))
    if overlap := sorted(seen.intersection(test.source_ids)):
        raise UserError(
            what,
            "test sources it never saw",
            f"{len(overlap)} it was trained on, first {overlap[0]}",
            "Build the dataset anew so that each source is in one split, and train again.",
        )


def _training_sources(dataset: JudgedDataset, run: TrainedRun) -> SourceTable:
    """What the baselines are fitted on.

    Raises:
      UserError: of a level that is compared no training source has one.
    """
    train = dataset.sources(TRAIN_SPLIT)
    columns = np.isfinite(train.levels).T
    if lacking := [level for level in run.levels if not columns[level - 1].any()]:
        raise UserError(
            f"baselines on {dataset.info.name}",
            "training sources to fit each level on",
            f"none of JND{lacking[0]}",
            "Build a larger dataset.",
        )
    return train


def _sur(
    dataset: JudgedDataset,
    run: TrainedRun,
    train: SourceTable,
    test: SourceTable,
    answers: NetworkAnswers,
    seed: int,
) -> SurComparison | None:
    if answers.spreads is None:
        return None
    scale = dataset.info.scale
    return compare_sur(
        train, test, answers.levels, answers.spreads, model=run.variant, scale=scale, seed=seed
    )


@dataclass(frozen=True, eq=False)
class NetworkAnswers:
    """What the network says of N sources.

    Attributes:
      levels: [N, 3] float64; NaN of levels that it does not predict.
      spreads: [N, 3] float64, the same; None of a network that gives none.
    """

    levels: np.ndarray
    spreads: np.ndarray | None


def network_predictions(
    dataset: JudgedDataset, run: TrainedRun, source_ids: tuple[str, ...]
) -> NetworkAnswers:
    """One answer per source, in the order of `source_ids`: the mean over all its stored frames."""
    means = SourceMeans.empty()
    for frame_ids, raw in dataset.raw_batches(TEST_SPLIT):
        frames = fit_frames(raw, width=run.width, height=run.height)
        means = means.merge(SourceMeans.from_frames(frame_ids, run.predict(frames)))
    by_source = means.compute()
    found = np.stack([by_source[source_id] for source_id in source_ids])
    found = found.reshape(len(source_ids), len(run.levels), 2 if run.spread else 1)
    answers = np.full((len(source_ids), NUM_LEVELS, found.shape[-1]), np.nan)
    answers[:, [level - 1 for level in run.levels]] = found
    return NetworkAnswers(answers[..., 0], answers[..., 1] if run.spread else None)


def fitted(pair: FramePair, run: TrainedRun) -> FramePair:
    """The same frames at the size the run's models take, so that all can be compared."""
    fit = partial(fit_frames, width=run.width, height=run.height)
    return replace(pair, raw=fit(pair.raw[None])[0], coded=fit(pair.coded))


def package_versions() -> dict[str, str]:
    """Versions of the packages that could change a figure."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "not installed"
    return found
