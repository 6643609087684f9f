"""Callbacks: what a training does besides learning, such as logs in other formats.

The chief worker calls them. They are sent to it from the process that starts the training, so they
need to be picklable by cloudpickle, and a run whose workers are restarted gets fresh copies.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.storage.files import atomic_path
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.storage.logs import METRICS_FOLDER, TENSORBOARD_FOLDER

COLUMNS = ("stage", "epoch", "metric", "value")
NUM_IMAGES = 3
_FRAME_CHANNELS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class StageInfo:
    """A stage as callbacks see it.

    Attributes:
      name: such as "jnd1".
      epochs: number of epochs in all.
      model: the model that is trained, and its `optimizer`. Do not change them.
      inputs: returns the model's inputs for a few validation examples: uint8 [B, H, W, 3] raw
        frames for models of frames, features for heads.
      run_dir: folder of the run on this machine.
      config: resolved configuration of the run, as plain values.
    """

    name: str
    epochs: int
    model: keras.Model
    inputs: Callable[[], Any]
    run_dir: Path
    config: Mapping[str, Any]


class Callback:
    """Base of callbacks: override what you need. An exception ends the training."""

    def on_stage_begin(self, stage: StageInfo) -> None:
        """Handle the start of a stage, also when it is resumed."""

    def on_epoch_end(self, stage: StageInfo, epoch: int, metrics: Mapping[str, float]) -> None:
        """Handle the end of an epoch, from 1.

        An epoch that is trained again after a failure ends again. `metrics` are those of
        `RUN/logs/metrics`: `loss`, `val_loss`, `learning_rate`, `gradient_norm` and others.
        """

    def on_checkpoint(self, stage: StageInfo, path: Path) -> None:
        """Handle a checkpoint that has been written, and uploaded if the run is in a bucket."""

    def on_stage_end(self, stage: StageInfo) -> None:
        """Handle the end of a stage; its model has the weights of the best epoch."""


class KerasCallback(Callback):
    """Callbacks of Keras, such as those of Weights & Biases and MLflow, one for each stage.

    Each sees its stage as a training: `on_train_begin`, `on_epoch_end` with the metrics, and
    `on_train_end`. Methods for batches are not called.
    """

    def __init__(self, make: Callable[[StageInfo], keras.callbacks.Callback]) -> None:
        """Take a function that makes the callback of a stage.

        It is called in the worker, so it can do there what its callback needs, such as
        `wandb.init`.

        Raises:
          TypeError: a callback is given, not a function.
        """
        if not callable(make):
            raise TypeError(f"KerasCallback takes a function that makes a callback, got {make!r}")
        self._make = make

    def on_stage_begin(self, stage: StageInfo) -> None:
        """Make the callback, and call `on_train_begin`."""
        self._callback = self._make(stage)
        self._callback.set_model(stage.model)
        self._callback.set_params({"epochs": stage.epochs})
        self._callback.on_train_begin()

    def on_epoch_end(self, stage: StageInfo, epoch: int, metrics: Mapping[str, float]) -> None:
        """Call `on_epoch_begin` and `on_epoch_end`; Keras counts from 0."""
        self._callback.on_epoch_begin(epoch - 1)
        self._callback.on_epoch_end(epoch - 1, dict(metrics))

    def on_stage_end(self, stage: StageInfo) -> None:
        """Call `on_train_end`."""
        self._callback.on_train_end()


class CsvLogger(Callback):
    """Writes `RUN/logs/metrics/STAGE.csv`, one metric per row; every run has one."""

    def __init__(self, store: RunFiles) -> None:
        """Take the storage of the run."""
        self._store = store

    def on_epoch_end(self, stage: StageInfo, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics, in place of those of an earlier attempt."""
        path = self._store.local / METRICS_FOLDER / f"{stage.name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._store.fetch(path):
            path.unlink(missing_ok=True)
        rows = [row for row in _rows(path) if int(row[1]) < epoch]
        rows += [(stage.name, str(epoch), name, f"{value:.6g}") for name, value in metrics.items()]
        with atomic_path(path) as unfinished, unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        self._store.push(path)


class TensorBoardLogger(Callback):
    """Writes `RUN/logs/tensorboard/STAGE`; every run has one.

    It holds the metrics and, of models of frames, a few validation frames, or crops of them if the
    stage trains on crops: raw on the left, as the model reconstructs them on the right.
    """

    def __init__(self, store: RunFiles) -> None:
        """Take the storage of the run."""
        self._store = store

    def on_stage_begin(self, stage: StageInfo) -> None:
        """Open the log."""
        self._folder = self._store.local / TENSORBOARD_FOLDER / stage.name
        self._writer = tf.summary.create_file_writer(str(self._folder))

    def on_epoch_end(self, stage: StageInfo, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics and the frames."""
        with self._writer.as_default(step=epoch):
            for name, value in metrics.items():
                tf.summary.scalar(name, value)
            if (pairs := reconstructions(stage)) is not None:
                tf.summary.image("reconstructions", pairs, max_outputs=NUM_IMAGES)
        self._writer.flush()
        self._store.push(self._folder)


def reconstructions(stage: StageInfo) -> np.ndarray | None:
    """Return raw validation frames next to their reconstructions by the stage's model.

    Returns:
      uint8 [B, H, 2 W, 3], B at most `NUM_IMAGES`; None if the model does not reconstruct frames.
    """
    if stage.model.input_shape[-1] != _FRAME_CHANNELS:
        return None
    inputs = np.asarray(stage.inputs())[:NUM_IMAGES]
    outputs = stage.model(inputs.astype(np.float32), training=False)
    frames = [np.asarray(each) for each in keras.tree.flatten(outputs)]
    frames = [each for each in frames if each.shape == inputs.shape]
    if not frames:
        return None
    found = np.clip(np.rint(frames[0].astype(np.float32)), 0, 255).astype(np.uint8)
    return np.concatenate([inputs.astype(np.uint8), found], axis=2)


def _rows(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]
