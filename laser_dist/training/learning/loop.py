"""Trains one stage: epochs of steps, validation, checkpoints, best weights at the end."""

import math
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from laser_dist.errors import UserError
from laser_dist.training.config import StageConfig
from laser_dist.training.examples.batch import Batch
from laser_dist.training.examples.read_ahead import ReadAhead
from laser_dist.training.learning.memory import too_little_memory
from laser_dist.training.learning.pace import Pace
from laser_dist.training.learning.step import Mean, Objective, Stepper
from laser_dist.training.learning.together import (
    chiefs_values,
    seconds_to_sum,
    share_statistics,
    wait_for_all,
)
from laser_dist.training.storage.checkpoints import (
    Progress,
    checkpoint_path,
    checkpoints_folder,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from laser_dist.training.storage.logs import RunLog
from laser_dist.training.storage.retrying import first_line
from laser_dist.training.storage.run_store import RunStore

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
      settings_name: of `settings` in a run's configuration, such as "jnd".
    """

    name: str
    model: keras.Model
    objective: Objective
    settings: StageConfig
    training: Batches
    validation: Batches
    steps_per_epoch: int
    settings_name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where a stage runs and what it writes.

    Attributes:
      strategy: spreads steps over devices and workers.
      local_replicas: devices of this worker.
      is_chief: whether this worker writes.
      store: where the run is kept.
      log: of the run.
      config: the run's resolved configuration, as plain values.
      jit_compile: whether TensorFlow's compiler makes the steps.
      checkpoint_every_steps: of a stage; None for a checkpoint after each epoch and no more.
      beat: called as a sign of life whenever something has ended, with what begins.
      paused: a block in which there is no such sign: others have theirs while this one waits.
    """

    strategy: tf.distribute.Strategy
    local_replicas: int
    is_chief: bool
    store: RunStore
    log: RunLog
    config: dict[str, Any]
    jit_compile: bool = False
    checkpoint_every_steps: int | None = None
    beat: Callable[[str], None] = lambda _: None
    paused: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def run_dir(self) -> Path:
        """Where the run's files are read and written."""
        return self.store.local

    @property
    def num_workers(self) -> int:
        """Processes that train together."""
        return self.strategy.num_replicas_in_sync // self.local_replicas


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
      UserError: a device has too little memory, or the store no longer takes checkpoints.
    """
    return _StageRun(stage, place).run()


class _StageRun:
    """One worker's training of a stage."""

    def __init__(self, stage: Stage, place: Place) -> None:
        self._stage = stage
        self._place = place
        self._folder = checkpoints_folder(place.run_dir, stage.name)
        self._saving_s = 0.0  # of the epoch before
        with place.strategy.scope():
            self._optimizer = make_optimizer(stage.settings, stage.steps_per_epoch)
            self._optimizer.build(stage.model.trainable_variables)
        self._state = [*stage.model.variables, *self._optimizer.variables]
        self._stepper = Stepper(
            place.strategy,
            stage.model,
            stage.objective,
            self._optimizer,
            place.local_replicas,
            jit_compile=place.jit_compile,
        )

    def run(self) -> Progress:
        """From the last checkpoint to the end."""
        stage, place = self._stage, self._place
        place.log.event(
            "stage",
            stage=stage.name,
            epochs=stage.settings.epochs,
            steps=stage.steps_per_epoch,
            settings=stage.settings_name,
            batch_size=stage.settings.batch_size,
            replicas=place.strategy.num_replicas_in_sync,
            parameters=stage.model.count_params(),
        )
        progress = self._resume()
        place.beat(f"{stage.name}, its first step")
        gradients = sum(math.prod(each.shape) for each in stage.model.trainable_variables)
        self._sum_s = seconds_to_sum(place.strategy, gradients)
        while not _is_done(progress, stage.settings):
            try:
                figures, progress = self._epoch(progress)
            except FloatingPointError as error:
                left = latest_checkpoint(place.store, self._folder)
                kept = "none" if left is None else str(left)
                raise FloatingPointError(f"{error} Last good checkpoint: {kept}.") from error
            except tf.errors.ResourceExhaustedError as error:
                raise self._too_little_memory(error) from error
            place.log.event("epoch", stage=stage.name, epoch=progress.epochs_done, figures=figures)
        with place.paused():
            wait_for_all(place.strategy)  # until the chief has saved the last one
            best = place.store.await_file(checkpoint_path(self._folder, progress.best_epoch))
        self._restore(best)
        # The last checkpoint is in no epoch's figures: they are logged before it.
        place.log.event("done", stage=stage.name, checkpoint_seconds=self._saving_s)
        return progress

    def _epoch(self, progress: Progress) -> tuple[dict[str, float], Progress]:
        """Trains an epoch or what is left of it, measures after it, and saves."""
        stage, place = self._stage, self._place
        epoch = progress.epochs_done + 1
        pace = Pace(checkpoint_s=self._saving_s)
        batches = ReadAhead(stage.training.epoch(epoch, start=progress.steps_done))
        progress = self._train(batches, progress, pace)
        pace.wait("input", batches.waited_s)
        pace.stop()
        place.beat(f"{stage.name}, validation")
        share_statistics(place.strategy, stage.model.non_trainable_variables)
        measured: dict[str, Mean] = {}
        for batch in ReadAhead(stage.validation.epoch(0)):
            measured = _merged(measured, self._stepper.measure(batch))
            place.beat(f"{stage.name}, validation")
        losses = _computed(measured)
        _check_finite(losses["loss"], f"Stage {stage.name}, epoch {epoch}, validation")
        trained = {name: Mean(*pair) for name, pair in progress.sums.items()}
        figures = {**_computed(trained), **{f"val_{k}": value for k, value in losses.items()}}
        progress = _next(progress, losses["loss"])
        if stage.settings.schedule == "plateau" and _is_on_plateau(progress):
            # Of the optimizer's state, so a checkpoint holds it.
            self._optimizer.learning_rate = 0.5 * float(self._optimizer.learning_rate.numpy())
        figures |= pace.figures(place.num_workers, self._sum_s)
        # Before the checkpoint: an epoch that is trained again replaces its figures, but one whose
        # checkpoint stands is not trained again.
        place.log.epoch(stage.name, epoch, figures)
        started = time.monotonic()
        self._save(progress)
        self._saving_s = time.monotonic() - started
        return figures, progress

    def _train(self, batches: Iterable[Batch], progress: Progress, pace: Pace) -> Progress:
        """The steps of an epoch; gives the progress with what they came to."""
        stage, place = self._stage, self._place
        epoch, every = progress.epochs_done + 1, place.checkpoint_every_steps
        sums = {name: Mean(*pair) for name, pair in progress.sums.items()}
        for step, batch in enumerate(batches, start=progress.steps_done + 1):
            means = self._stepper.train(batch)
            _check_finite(means["loss"].total, f"Stage {stage.name}, epoch {epoch}, step {step}")
            place.log.step(
                stage=stage.name,
                epoch=epoch,
                epochs=stage.settings.epochs,
                step=step,
                steps=stage.steps_per_epoch,
                loss=means["loss"].compute(),
            )
            place.beat(f"{stage.name}, epoch {epoch}, step {step + 1}")
            sums = _merged(sums, means)
            pace.step(batch.global_count)
            progress = replace(
                progress,
                steps_done=step,
                sums={name: (mean.total, mean.count) for name, mean in sums.items()},
            )
            done = (epoch - 1) * stage.steps_per_epoch + step
            # After the last step comes the epoch's own, with its validation.
            if every and done % every == 0 and step < stage.steps_per_epoch:
                with pace.timing("checkpoint"):
                    share_statistics(place.strategy, stage.model.non_trainable_variables)
                    self._save(progress)
        return progress

    def _save(self, progress: Progress) -> None:
        place = self._place
        if place.is_chief:
            values = [variable.numpy() for variable in self._state]
            save_checkpoint(place.store, self._folder, values, progress, place.config)
            prune(place.store, self._folder, progress)
        place.beat(f"{self._stage.name}, after a checkpoint")

    def _resume(self) -> Progress:
        """Loads the last checkpoint, the chief's choice: of a shared folder others may see less."""
        place, none = self._place, Progress(epochs_done=0, best_epoch=0, best_loss=math.inf)
        path = latest_checkpoint(place.store, self._folder) if place.is_chief else None
        if path is not None and place.store.fetch(path):
            chosen = load_checkpoint(path)[1]
            own = [chosen.epochs_done, chosen.steps_done]
        else:
            own = [0, 0]
        (choice,) = chiefs_values(place.strategy, [np.array(own, np.float32)])
        if not choice.any():
            return none
        path = checkpoint_path(self._folder, *map(int, choice))
        progress = self._restore(place.store.await_file(path))
        within = f", step {progress.steps_done}" if progress.steps_done else ""
        place.log.event(
            "note",
            text=f"{self._stage.name}: goes on after epoch {progress.epochs_done}{within}",
        )
        return progress

    def _restore(self, path: Path) -> Progress:
        values, progress = load_checkpoint(path)
        for variable, value in zip(self._state, values, strict=True):
            variable.assign(value)
        return progress

    def _too_little_memory(self, error: Exception) -> UserError:
        """What to lower, where a device cannot hold a step."""
        stage, device = self._stage, re.search(r"device:([GC]PU:\d+)", str(error))
        return too_little_memory(
            f"{device[1] if device else 'a device'} on {platform.node()}",
            stage.name,
            settings_name=stage.settings_name,
            batch_size=stage.settings.batch_size,
            replicas=self._place.strategy.num_replicas_in_sync,
            got=first_line(error),
        )


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


def _check_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{where}: expected a finite loss, got {loss}. "
            "Lower the learning rate or the clip norm."
        )


def _merged(sums: Mapping[str, Mean], more: Mapping[str, Mean]) -> dict[str, Mean]:
    return {**sums, **{name: sums.get(name, Mean()).merge(mean) for name, mean in more.items()}}


def _computed(sums: Mapping[str, Mean]) -> dict[str, float]:
    """Means over the examples of all batches; what no example has is left out."""
    return {name: mean.compute() for name, mean in sums.items() if mean.count}


def _next(progress: Progress, loss: float) -> Progress:
    epoch = progress.epochs_done + 1
    if loss < progress.best_loss:
        return Progress(epochs_done=epoch, best_epoch=epoch, best_loss=loss)
    return Progress(epochs_done=epoch, best_epoch=progress.best_epoch, best_loss=progress.best_loss)


def _is_done(progress: Progress, settings: StageConfig) -> bool:
    patience = settings.patience
    waited = progress.epochs_done - progress.best_epoch
    return progress.epochs_done >= settings.epochs or (patience is not None and waited >= patience)


def _is_on_plateau(progress: Progress) -> bool:
    waited = progress.epochs_done - progress.best_epoch
    return waited > 0 and waited % PLATEAU_EPOCHS == 0
