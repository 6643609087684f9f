"""Evaluate a finished run on the test sources of the dataset it was trained on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from laser_dist.errors import UserError
from laser_dist.evaluation import exemplars, report
from laser_dist.evaluation.baselines import SourceTable, constant_predictions, ridge_predictions
from laser_dist.evaluation.dataset import FramePair, JudgedDataset, TfdsDataset, fit_frames
from laser_dist.evaluation.learning_curves import Curve
from laser_dist.evaluation.metrics import SourceMeans, mean_of_present
from laser_dist.evaluation.quality_table import read_quality_curves
from laser_dist.evaluation.results import (
    CONSTANT,
    RIDGE,
    EvaluationResults,
    assess,
    to_csv,
    to_json,
)

TEST_SPLIT = "test"
TRAIN_SPLIT = "train"
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
      predict: uint8 [B, H, W, 3] raw frames to levels [B, 3].
      backbones: for each level, uint8 raw frames to uint8 frames of the same shape.
      curves: what training logged.
    """

    path: str
    variant: str
    fingerprint: str
    trained_on: frozenset[str]
    width: int
    height: int
    predict: FramesToLevels
    backbones: tuple[FramesToFrames, ...]
    curves: tuple[Curve, ...] = field(default=())


def evaluate(dataset_dir: Path, run_dir: Path, output_dir: Path, seed: int) -> EvaluationResults:
    """Evaluate a run and write `results.json`, `predictions.csv` and `report/index.html`.

    Args:
      dataset_dir: folder of one version of a built dataset.
      run_dir: a finished run.
      output_dir: made if missing; files of an earlier evaluation are replaced, each at once.
      seed: of the bootstrap.

    Raises:
      UserError: either folder is not what it should be, the run was trained on another dataset or
        on test sources, or the output cannot be written.
    """
    from laser_dist.evaluation.trained_run import load_trained_run

    dataset = TfdsDataset(dataset_dir)
    return evaluate_on(dataset, load_trained_run(run_dir), output_dir, seed)


def evaluate_on(
    dataset: JudgedDataset, run: TrainedRun, output_dir: Path, seed: int
) -> EvaluationResults:
    """As `evaluate`, with both already loaded."""
    test = dataset.sources(TEST_SPLIT)
    check_comparable(dataset, run, test)
    results = assess(
        test,
        read_quality_curves(dataset.quality_path, test.source_ids, dataset.info.scale),
        _predictions(dataset, run, test),
        dataset=dataset.info,
        model=run.variant,
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
    # results.json last: where it stands, the evaluation is whole.
    write_atomically(output_dir / "report" / "index.html", page)
    write_atomically(output_dir / "predictions.csv", to_csv(results))
    write_atomically(output_dir / "results.json", to_json(results))
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


def _predictions(
    dataset: JudgedDataset, run: TrainedRun, test: SourceTable
) -> Mapping[str, np.ndarray]:
    train = dataset.sources(TRAIN_SPLIT)
    if not np.isfinite(train.levels).any(axis=0).all():
        raise UserError(
            f"baselines on {dataset.info.name}",
            "training sources to fit each level on",
            "none",
            "Build a larger dataset.",
        )
    return {
        run.variant: network_predictions(dataset, run, test.source_ids),
        CONSTANT: constant_predictions(train, len(test.source_ids)),
        RIDGE: ridge_predictions(train, test.activity),
    }


def network_predictions(
    dataset: JudgedDataset, run: TrainedRun, source_ids: tuple[str, ...]
) -> np.ndarray:
    """One prediction per source: the mean over all of its stored frames.

    Returns:
      [N, 3] float64, in the order of `source_ids`.
    """
    means = SourceMeans.empty()
    for frame_ids, raw in dataset.raw_batches(TEST_SPLIT):
        frames = fit_frames(raw, width=run.width, height=run.height)
        means = means.merge(SourceMeans.from_frames(frame_ids, run.predict(frames)))
    by_source = means.compute()
    return np.stack([by_source[source_id] for source_id in source_ids])


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


def write_atomically(path: Path, text: str) -> None:
    """Write a file complete or not at all.

    Raises:
      UserError: the disk is full or read-only, or a folder is in the way.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        # Temporary files are private to their owner; what is published follows the umask.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"writing {path}",
            "a folder that can be written to, with room left",
            error.strerror or str(error),
            "Name another output folder, or free some space.",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
