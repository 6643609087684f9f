"""Trains one stage: epochs of steps, validation, checkpoint, best weights at the end."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import tensorflow as tf

from laser_dist.training.checkpoints import (
    Progress,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from laser_dist.training.config import StageConfig
from laser_dist.training.logs import RunLog
from laser_dist.training.read_ahead import ReadAhead
from laser_dist.training.step import Batch, Mean, Objective, Stepper
from laser_dist.training.together import share_statistics

WARM_UP_SHARE = 0.05
PLATEAU_EPOCHS = 5
NOT_DECAYED = ["bias", "gamma", "beta"]  # of Keras's names: biases, and what norms learn


class Batches(Protocol):
    """Anything that gives the batches of an epoch."""

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch; the same `index` gives the same ones.

        Args:
          index: of the epoch.
          start: global batches that are left out at its beginning; none of them is read.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One training, ready to run.

    Attributes:
      name: such as "jnd1".
      model: to train, made under the strategy's scope.
      objective: per-example losses and metrics.
      settings: how.
      training: batches to learn from.
      validation: batches to choose the best epoch by.
      steps_per_epoch: number of training batches.
    """

    name: str
    model: keras.Model
    objective: Objective
    settings: StageConfig
    training: Batches
    validation: Batches
    steps_per_epoch: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where a stage runs and what it writes.

    Attributes:
      strategy: spreads steps over devices and workers.
      local_replicas: devices of this worker.
      is_chief: whether this worker writes.
      run_dir: of the run.
      log: of the run.
      config: the run's resolved configuration, as plain values.
      xla: whether TensorFlow's compiler makes the steps.
      after_epoch: called by every worker after each epoch with its figures.
    """

    strategy: tf.distribute.Strategy
    local_replicas: int
    is_chief: bool
    run_dir: Path
    log: RunLog
    config: dict[str, Any]
    xla: bool = False
    after_epoch: Callable[[dict[str, float]], None] = lambda _: None


def train_stage(stage: Stage, place: Place) -> Progress:
    """Trains a stage from its last checkpoint on; ends with the best epoch's weights in the model.

    The best epoch is that of the lowest validation loss.

    Args:
      stage: what to train.
      place: where; all workers call this with the same stage.

    Returns:
      How it went.

    Raises:
      FloatingPointError: the loss is no longer a number; the message names stage and step, or
        stage and epoch if it is the validation's, and the last checkpoint before.
    """
    folder = place.run_dir / "checkpoints" / stage.name
    settings = stage.settings
    with place.strategy.scope():
        optimizer = make_optimizer(settings, stage.steps_per_epoch)
        optimizer.build(stage.model.trainable_variables)
    state = [*stage.model.variables, *optimizer.variables]
    progress = _resume(folder, state)
    stepper = Stepper(
        place.strategy,
        stage.model,
        stage.objective,
        optimizer,
        place.local_replicas,
        xla=place.xla,
    )
    while not _is_done(progress, settings):
        epoch = progress.epochs_done + 1
        try:
            figures = _epoch(stage, place, stepper, epoch)
        except FloatingPointError as error:
            left = latest_checkpoint(folder)
            kept = "none" if left is None else str(left)
            raise FloatingPointError(f"{error} Last good checkpoint: {kept}.") from error
        # Before the checkpoint: an epoch that is trained again replaces its figures, but one whose
        # checkpoint stands is not trained again.
        place.log.epoch(stage.name, epoch, figures)
        progress = _next(progress, figures["val_loss"])
        if settings.schedule == "plateau" and _is_on_plateau(progress):
            # Of the optimizer's state, so a checkpoint holds it.
            optimizer.learning_rate = 0.5 * float(optimizer.learning_rate.numpy())
        if place.is_chief:
            save_checkpoint(folder, [v.numpy() for v in state], progress, place.config)
            prune(folder, progress)
        place.log.event("epoch", stage=stage.name, epoch=epoch, figures=figures)
        place.after_epoch(figures)
    _restore(state, checkpoint_path(folder, progress.best_epoch))
    return progress


def _epoch(stage: Stage, place: Place, stepper: Stepper, epoch: int) -> dict[str, float]:
    """Trains an epoch and measures after it; gives its figures."""
    started = time.monotonic()
    batches = ReadAhead(stage.training.epoch(epoch))
    trained = _means(_train_epoch(stage, place, stepper, batches, epoch))
    took = time.monotonic() - started
    share_statistics(place.strategy, stage.model.non_trainable_variables)
    measured = _means(map(stepper.measure, ReadAhead(stage.validation.epoch(0))))
    _check_finite(measured["loss"], f"Stage {stage.name}, epoch {epoch}, validation")
    figures = {**trained, **{f"val_{name}": value for name, value in measured.items()}}
    figures["input_wait"] = batches.waited_s / took
    figures["seconds"] = time.monotonic() - started
    return figures


def make_optimizer(settings: StageConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam with the stage's schedule, and weight decay where it is asked for."""
    steps = settings.epochs * steps_per_epoch
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        warm_up = max(1, round(WARM_UP_SHARE * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0,
            decay_steps=max(1, steps - warm_up),
            warmup_target=settings.learning_rate,
            warmup_steps=warm_up,
        )
    optimizer = ReplicatedAdam(
        rate, global_clipnorm=settings.clip_norm, weight_decay=settings.weight_decay or None
    )
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


class ReplicatedAdam(keras.optimizers.Adam):
    """Adam that clips the gradient of the global batch.

    Keras 3.15 clips what each replica has and sums it then, so what is learnt would depend on how
    a batch is cut up. Here the sum comes first.
    """

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        context = tf.distribute.get_replica_context()
        return super()._clip_gradients(context.all_reduce(tf.distribute.ReduceOp.SUM, grads))

    def _all_reduce_sum_gradients(self, grads_and_vars: list[Any]) -> list[Any]:
        return grads_and_vars


def _train_epoch(
    stage: Stage, place: Place, stepper: Stepper, batches: Iterable[Batch], epoch: int
) -> Iterator[dict[str, Mean]]:
    for step, batch in enumerate(batches, start=1):
        means = stepper.train(batch)
        _check_finite(means["loss"].total, f"Stage {stage.name}, epoch {epoch}, step {step}")
        place.log.step(
            stage=stage.name,
            epoch=epoch,
            epochs=stage.settings.epochs,
            step=step,
            steps=stage.steps_per_epoch,
            loss=means["loss"].compute(),
        )
        yield means


def _check_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{where}: expected a finite loss, got {loss}. "
            "Lower the learning rate or the clip norm."
        )


def _means(batches: Iterable[dict[str, Mean]]) -> dict[str, float]:
    """Means over the examples of all batches; what no example has is left out."""
    merged: dict[str, Mean] = {}
    for means in batches:
        merged |= {name: merged.get(name, Mean()).merge(mean) for name, mean in means.items()}
    return {name: mean.compute() for name, mean in merged.items() if mean.count}


def _next(progress: Progress, loss: float) -> Progress:
    epoch = progress.epochs_done + 1
    if loss < progress.best_loss:
        return Progress(epochs_done=epoch, best_epoch=epoch, best_loss=loss)
    return Progress(epochs_done=epoch, best_epoch=progress.best_epoch, best_loss=progress.best_loss)


def _is_done(progress: Progress, settings: StageConfig) -> bool:
    patience = settings.early_stopping
    waited = progress.epochs_done - progress.best_epoch
    return progress.epochs_done >= settings.epochs or (patience is not None and waited >= patience)


def _is_on_plateau(progress: Progress) -> bool:
    waited = progress.epochs_done - progress.best_epoch
    return waited > 0 and waited % PLATEAU_EPOCHS == 0


def _resume(folder: Path, state: list[Any]) -> Progress:
    path = latest_checkpoint(folder)
    if path is None:
        return Progress(epochs_done=0, best_epoch=0, best_loss=math.inf)
    return _restore(state, path)


def _restore(state: list[Any], path: Path) -> Progress:
    values, progress = load_checkpoint(path)
    for variable, value in zip(state, values, strict=True):
        variable.assign(value)
    return progress
