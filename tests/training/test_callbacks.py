import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_fakes import context, linear_stage

from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import CheckpointInterval
from laser_dist.training.learning.callbacks import (
    Callback,
    CsvLogger,
    KerasCallback,
    StageInfo,
    TensorBoardLogger,
)
from laser_dist.training.learning.loop import train_stage
from laser_dist.training.storage.logs import METRICS_FOLDER, TENSORBOARD_FOLDER

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(8, 3)).astype(np.float32)
LEVELS = (FEATURES @ RNG.normal(size=(3, 2))).astype(np.float32)


def stage_info(run_dir, name="image", model=None, inputs=None):
    """Return a stage whose model is no model of frames by default."""
    if model is None:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return StageInfo(
        name=name, epochs=2, model=model, inputs=lambda: inputs, run_dir=run_dir, config={}
    )


def rows(run_dir):
    found = []
    for path in sorted((run_dir / METRICS_FOLDER).glob("*.csv")):
        with path.open(newline="") as file:
            found += csv.DictReader(file)
    return found


def tensorboard(run_dir):
    return EventAccumulator(str(run_dir / TENSORBOARD_FOLDER / "image")).Reload()


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_stage_begin(self, stage):
        self.calls.append(("begin", stage.name, stage.epochs))

    def on_epoch_end(self, stage, epoch, metrics):
        self.calls.append(("epoch", epoch, metrics["loss"], metrics["learning_rate"]))

    def on_checkpoint(self, stage, path):
        assert path.is_file()
        self.calls.append(("checkpoint", path.name))

    def on_stage_end(self, stage):
        self.calls.append(("end", stage.model.get_weights()[0].copy()))


def tiny_stage(epochs, **settings):
    start = np.zeros((3, 2), np.float32)
    return linear_stage(start, FEATURES, LEVELS, epochs=epochs, learning_rate=0.05, **settings)


def test_callbacks_see_a_stage_from_its_begin_to_its_end(tmp_path):
    recorder = Recorder()
    base = replace(context(tmp_path), checkpoint_interval=CheckpointInterval(epochs=2))
    stage = tiny_stage(epochs=3, schedule="cosine")
    train_stage(stage, replace(base, callbacks=(recorder,)))
    kinds = [call[0] for call in recorder.calls]
    assert recorder.calls[0] == ("begin", stage.name, 3)
    # A checkpoint is announced once it is written, which takes a thread some time.
    assert [kind for kind in kinds if kind != "checkpoint"] == ["begin", *["epoch"] * 3, "end"]
    assert [call[1] for call in recorder.calls if call[0] == "epoch"] == [1, 2, 3]
    rates = [call[3] for call in recorder.calls if call[0] == "epoch"]
    assert rates == sorted(rates, reverse=True)  # a cosine from 0.05 to 0
    assert 0.05 > rates[0] > 0.02 > 1e-6 > rates[-1]
    assert ("checkpoint", "epoch-002.npz") in recorder.calls
    np.testing.assert_array_equal(recorder.calls[-1][1], stage.model.get_weights()[0])


def test_an_exception_in_a_callback_ends_the_training(tmp_path):
    class Failing(Callback):
        def on_epoch_end(self, stage, epoch, metrics):
            raise RuntimeError(f"no disk after epoch {epoch}")

    with pytest.raises(RuntimeError, match="no disk after epoch 1"):
        train_stage(tiny_stage(epochs=2), replace(context(tmp_path), callbacks=(Failing(),)))


def test_a_callback_of_keras_sees_what_it_sees_in_fit(tmp_path):
    """Keras's own CSV log has a row per epoch, counted from 0, and the model of the stage."""
    path, made = tmp_path / "keras.csv", []

    def make(stage):
        made.append((stage.name, keras.callbacks.CSVLogger(str(path))))
        return made[-1][1]

    stage = tiny_stage(epochs=2)
    callbacks = (KerasCallback(make), CsvLogger(RunFiles(str(tmp_path))))
    assert made == []
    train_stage(stage, replace(context(tmp_path), callbacks=callbacks))
    with path.open(newline="") as file:
        logged = list(csv.DictReader(file))
    assert [row["epoch"] for row in logged] == ["0", "1"]
    ours = [row["value"] for row in rows(tmp_path) if row["metric"] == "val_loss"]
    assert [float(row["val_loss"]) for row in logged] == pytest.approx(list(map(float, ours)), 1e-5)
    assert [(name, callback.model) for name, callback in made] == [(stage.name, stage.model)]


class OptimizerReader(keras.callbacks.Callback):
    """Reads what the callbacks of MLflow and of Weights & Biases read of an optimizer."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_begin(self, logs=None):
        self.settings = self.model.optimizer.get_config()

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(self.model.optimizer.learning_rate.numpy().item())


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.05, 0.05, 0.05]),
        # 12 steps: one of warm-up, then half a cosine over 11, of which 3, 7 and 11 are done.
        ("cosine", [0.025 * (1 + np.cos(np.pi * done / 11)) for done in (3, 7, 11)]),
    ],
)
def test_a_callback_of_keras_can_read_the_optimizer(tmp_path, schedule, rates):
    reader = OptimizerReader()
    stage = tiny_stage(epochs=3, schedule=schedule)
    train_stage(stage, replace(context(tmp_path), callbacks=(KerasCallback(lambda _: reader),)))
    assert reader.rates == pytest.approx(rates, abs=1e-7)
    assert reader.settings["global_clipnorm"] == 1.0


@pytest.mark.parametrize(("seconds", "reported"), [(1000.0, [1, 4]), (0.0, [1, 2, 3, 4])])
def test_ray_hears_of_the_last_epoch_and_of_those_before_at_intervals(
    tmp_path, monkeypatch, seconds, reported
):
    monkeypatch.setattr("laser_dist.training.learning.loop.SECONDS_BETWEEN_REPORTS", seconds)
    told = []
    train_stage(tiny_stage(epochs=4), replace(context(tmp_path), report=told.append))
    assert [each["epoch"] for each in told] == reported
    assert {"stage", "loss", "val_loss", "gradient_norm", "learning_rate"} <= told[0].keys()


def test_every_metric_of_an_epoch_is_a_row(tmp_path):
    log, stage = CsvLogger(RunFiles(str(tmp_path))), stage_info(tmp_path)
    log.on_epoch_end(stage, 1, {"loss": 12.5, "val_loss": 1e-9})
    log.on_epoch_end(stage, 2, {"loss": 11.0})
    assert rows(tmp_path) == [
        {"stage": "image", "epoch": "1", "metric": "loss", "value": "12.5"},
        {"stage": "image", "epoch": "1", "metric": "val_loss", "value": "1e-09"},
        {"stage": "image", "epoch": "2", "metric": "loss", "value": "11"},
    ]


def test_a_later_attempt_replaces_only_the_metrics_of_its_own_epochs(tmp_path):
    first = CsvLogger(RunFiles(str(tmp_path)))
    for name in ("image", "jnd1"):
        for epoch in (1, 2, 10):
            first.on_epoch_end(stage_info(tmp_path, name), epoch, {"loss": epoch})
    again = CsvLogger(RunFiles(str(tmp_path)))
    again.on_epoch_end(stage_info(tmp_path, "jnd1"), 2, {"loss": 20})
    logged = [(row["stage"], row["epoch"], row["value"]) for row in rows(tmp_path)]
    unchanged = [
        ("image", "1", "1"),
        ("image", "2", "2"),
        ("image", "10", "10"),
        ("jnd1", "1", "1"),
    ]
    assert logged == [*unchanged, ("jnd1", "2", "20")]
    assert not list((tmp_path / METRICS_FOLDER).glob("*.unfinished"))


def test_tensorboard_reads_the_same_metrics(tmp_path):
    log, stage = TensorBoardLogger(RunFiles(str(tmp_path))), stage_info(tmp_path)
    log.on_stage_begin(stage)
    log.on_epoch_end(stage, 1, {"loss": 12.5})
    log.on_epoch_end(stage, 2, {"loss": 11.0})
    found = tensorboard(tmp_path)
    assert found.Tags()["tensors"] == ["loss"]
    values = [(each.step, tf.make_ndarray(each.tensor_proto)) for each in found.Tensors("loss")]
    assert values == [(1, 12.5), (2, 11.0)]


def test_tensorboard_shows_raw_frames_next_to_their_reconstructions(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    given = keras.Input((4, 6, 3))
    # The model darkens by 100, and 1 / 3 is lost in rounding; below 0 it is clipped.
    model = keras.Model(given, keras.layers.Rescaling(1.0, -100.0 + 1 / 3)(given))
    stage = stage_info(tmp_path, model=model, inputs=frames)
    log = TensorBoardLogger(RunFiles(str(tmp_path)))
    log.on_stage_begin(stage)
    log.on_epoch_end(stage, 1, {"loss": 1.0})
    (image,) = tensorboard(tmp_path).Tensors("reconstructions")
    width, height, *encoded = tf.make_ndarray(image.tensor_proto)
    assert (int(width), int(height), len(encoded)) == (12, 4, 3)
    for png, frame in zip(encoded, frames, strict=False):
        shown = tf.image.decode_png(png).numpy()
        np.testing.assert_array_equal(shown[:, :6], frame)
        np.testing.assert_array_equal(shown[:, 6:], np.maximum(frame.astype(int) - 100, 0))
