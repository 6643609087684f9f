"""A trained model as the evaluation uses it: predict functions, metadata, learning curves.

Keras is imported only to load a model.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laser_dist.errors import UserError
from laser_dist.models.variants import variant_named
from laser_dist.training.plan import plan_stages
from laser_dist.training.reuse import model_names, model_path
from laser_dist.training.runs import load_run

if TYPE_CHECKING:
    from laser_dist.models.predictor_spec import PredictorSpec

FramesToLevels = Callable[[np.ndarray], np.ndarray]
FramesToFrames = Callable[[np.ndarray], np.ndarray]
_RECORDED = {"name", "version", "fingerprint", "splits"}
_LOG_COLUMNS = ("stage", "epoch", "metric", "value")


@dataclass(frozen=True, eq=False)
class Curve:
    """One logged metric over the epochs of one stage.

    Attributes:
      stage: training stage, for example `jnd1`.
      metric: name as logged; the prefix `val_` marks the validation sources.
      epochs: [E] int64, ascending.
      values: [E] float64, finite.
    """

    stage: str
    metric: str
    epochs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRun:
    """A finished run, or a model file, of which only the predictor is known.

    Attributes:
      path: as the user named it.
      name: its predictor's name in the results: the variant, for example `mj-lat`.
      scale: name of the levels' scale.
      dataset: name and version of the dataset it was trained on; empty for a model file.
      fingerprint: fingerprint of that dataset; empty for a model file.
      simulated: whether it was trained on simulated viewers.
      trained_on: ids of its training and validation sources; empty for a model file.
      width: input width of its models, pixels.
      height: input height of its models, pixels.
      predict: uint8 [B, H, W, 3] raw frames to levels [B, L], or to levels and spreads [B, L, 2].
      levels: the JND levels that the L columns stand for, from 1, ascending.
      spread: whether it predicts the standard deviation of the viewers' samples for each level.
      half_widths: [L], half-width of its calibrated intervals; None if it is not calibrated.
      backbones: level, from 1, to a function from uint8 raw frames to frames of the same shape and
        type as they would look at that level. Levels whose backbone was not kept are absent.
      num_parameters: number of parameters of its predictor.
      curves: the learning curves.
      settings: its resolved settings.
    """

    path: str
    name: str
    width: int
    height: int
    predict: FramesToLevels
    scale: str = "QP"
    dataset: str = ""
    fingerprint: str = ""
    simulated: bool = False
    trained_on: frozenset[str] = frozenset()
    levels: tuple[int, ...] = (1, 2, 3)
    spread: bool = False
    half_widths: tuple[float, ...] | None = None
    backbones: Mapping[int, FramesToFrames] = field(default_factory=dict)
    num_parameters: int = 0
    curves: tuple[Curve, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def load_trained_run(path: Path) -> TrainedRun:
    """Load a finished run, with its metadata and learning curves, or a model file.

    Args:
      path: folder of the run, or a `.keras` file.

    Raises:
      UserError: a model is missing or unreadable, or the configuration or a log is incomplete.
    """
    from laser_dist.prediction.load import load_predictor
    from laser_dist.prediction.predict import predict_frames

    config = {} if path.is_file() else load_run(path).config
    dataset = dataset_record(config, path) if config else {}
    predictor = load_predictor(path)
    spec = predictor.spec
    model = TrainedRun(
        path=str(path),
        name=spec.variant,
        width=predictor.width,
        height=predictor.height,
        predict=partial(predict_frames, predictor),
        scale=spec.scale,
        simulated=bool(spec.simulated),
        levels=spec.levels,
        spread=spec.spread,
        half_widths=spec.residuals and tuple(spec.residuals.half_widths()),
        num_parameters=predictor.num_parameters,
    )
    if not config:
        return model
    return replace(
        model,
        dataset=f"{dataset['name']} {dataset['version']}",
        fingerprint=dataset["fingerprint"],
        trained_on=frozenset(
            source_id
            for split in ("train", "validation")
            for source_id in dataset["splits"].get(split, ())
        ),
        backbones=load_backbones(path, spec),
        curves=read_curves(path / "logs" / "metrics"),
        settings=config["training"],
    )


def dataset_record(config: Mapping[str, Any], run_dir: Path) -> Mapping[str, Any]:
    """Return what a run's configuration records of its dataset.

    Args:
      config: the run's resolved configuration.
      run_dir: the run, for the error message.

    Raises:
      UserError: the fingerprint or the splits are missing.
    """
    dataset = config.get("dataset")
    if not isinstance(dataset, Mapping) or not _RECORDED <= dataset.keys():
        raise UserError(
            f"{run_dir / 'config.json'} does not record the fingerprint and the splits of the"
            " training dataset.",
            hint="Train the run again with this version of laser-jnd.",
        )
    return dataset


def backbone_paths(run_dir: Path, spec: PredictorSpec) -> dict[int, Path]:
    """Return the model files of the backbones that reproduce frames at a level.

    Returns:
      Level, from 1, to an existing file. Prediction works without backbones, so levels may be
      absent.
    """
    paths = {
        level: model_path(run_dir, model_names(stage)[0])
        for stage in plan_stages(variant_named(spec.variant), spec.levels)
        if stage.kind in ("jnd", "joint")
        for level in stage.levels
    }
    return {level: path for level, path in paths.items() if path.is_file()}


def load_backbones(run_dir: Path, spec: PredictorSpec) -> dict[int, FramesToFrames]:
    """Load the backbones of a run as functions, by level.

    Raises:
      UserError: a file is not a Keras model.
    """
    from laser_dist.models.predictors import load_saved_model
    from laser_dist.prediction.keras_models import predict_images

    return {
        level: partial(predict_images, load_saved_model(path, is_trusted=True), origin=str(path))
        for level, path in backbone_paths(run_dir, spec).items()
    }


def read_curves(folder: Path) -> tuple[Curve, ...]:
    """Read the learning curves of a run from its metric logs.

    A resumed run logs an epoch again; the last value counts. Values that are not finite are
    dropped.

    Args:
      folder: `logs/metrics` of a run; one STAGE.csv per stage, with the columns stage, epoch,
        metric and value.

    Returns:
      The curves by stage, `image` first; empty if there is no log.

    Raises:
      UserError: a file lacks a column or has a value that is not a number.
    """
    points: dict[tuple[str, str], dict[int, float]] = {}
    for path in sorted(folder.glob("*.csv"), key=lambda path: (path.stem != "image", path.stem)):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                missing = [name for name in _LOG_COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise ValueError(f"no column {missing[0]}")
                for row in reader:
                    if np.isfinite(value := float(row["value"])):
                        key = row["stage"], row["metric"]
                        points.setdefault(key, {})[int(row["epoch"])] = value
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The training log {path} is not a CSV table of {', '.join(_LOG_COLUMNS)}:"
                f" {error}.",
                hint="Restore the file, or train the run again.",
            ) from error
    return tuple(
        Curve(
            stage,
            metric,
            np.array(sorted(by_epoch), np.int64),
            np.array([by_epoch[epoch] for epoch in sorted(by_epoch)], np.float64),
        )
        for (stage, metric), by_epoch in points.items()
    )
