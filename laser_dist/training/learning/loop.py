"""The training loop of one stage: epochs of steps, validation, checkpoints, best weights."""

import itertools
import logging
import math
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import keras
import numpy as np
import tensorflow as tf

from laser_dist.errors import UserError
from laser_dist.examples.order import Batch, WorkerShard
from laser_dist.examples.read_ahead import ReadAhead
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import CheckpointInterval, StageConfig
from laser_dist.training.learning.callbacks import Callback, StageInfo
from laser_dist.training.learning.collectives import (
    average_statistics,
    broadcast_from_chief,
    snapshot,
    wait_for_all,
)
from laser_dist.training.learning.profiling import Profiler
from laser_dist.training.learning.step import (
    GRADIENT_NORM,
    REQUESTS,
    DeviceBatch,
    Mean,
    Means,
    Objective,
    Stepper,
)
from laser_dist.training.learning.throughput import EpochTimer
from laser_dist.training.storage.checkpoints import (
    CheckpointWriter,
    Progress,
    best_path,
    checkpoint_path,
    checkpoints_folder,
    intact_checkpoint,
    latest_checkpoint,
    load_best,
    load_checkpoint,
    position_of,
)
from laser_dist.training.storage.logs import TENSORBOARD_FOLDER, RunLog

WARM_UP_SHARE = 0.05
PLATEAU_EPOCHS = 5
SECONDS_BETWEEN_REPORTS = 2.0  # to Ray, whose controller takes one in 2 s: another would wait
SECONDS_BETWEEN_NOTICES = 10.0  # of preemption; each look is a round trip of all workers
_MODEL = "model/"
NOT_DECAYED = ["bias", "gamma", "beta"]  # Keras's names of biases and norm parameters

_T = TypeVar("_T")
_R = TypeVar("_R")

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """A source of the batches of each epoch."""

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; the same `index` gives the same ones.

        Args:
          index: number of the epoch.
          start: number of global batches to skip, without reading them.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One training, ready to run.

    Attributes:
      name: name of the stage, such as "jnd1".
      model: model to train, made under the strategy's scope.
      objective: per-example losses and metrics.
      settings: settings of the stage.
      training: batches to learn from.
      validation: batches that decide which epoch is the best.
      steps_per_epoch: number of training batches.
      settings_name: name of `settings` in the run's configuration, such as "jnd".
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
class TrainingContext:
    """What a stage runs on and writes to.

    Attributes:
      strategy: distributes steps over devices and workers.
      store: storage of the run.
      log: log of the run.
      config: the run's resolved configuration, as plain values.
      shard: this worker's part of the batches.
      jit_compile: whether XLA compiles the steps.
      gradient_precision: number format in which gradients are all-reduced.
      steps_per_execution: number of training steps that are started together.
      checkpoint_interval: when checkpoints are due.
      callbacks: called by the chief worker, which alone has any.
      report: tells Ray the metrics of an epoch; all workers call it after the same epoch. None
        without Ray.
      profile_steps: number of steps of each stage that the chief worker traces.
      is_preempted: whether a machine of the training is about to be reclaimed; all workers call it
        after the same step, some seconds apart.
      has_equal_statistics: whether all devices have the same moving averages, as batch norms that
        are synchronized give them.
      heartbeat: called after each unit of work, with a label for the next.
      suspended: context in which the watchdog is off, such as while waiting for other workers.
    """

    strategy: tf.distribute.Strategy
    store: RunFiles
    log: RunLog
    config: dict[str, Any]
    shard: WorkerShard = WorkerShard()
    jit_compile: bool = False
    gradient_precision: str = "float32"
    steps_per_execution: int = 1
    checkpoint_interval: CheckpointInterval = CheckpointInterval(epochs=1)
    callbacks: Sequence[Callback] = ()
    report: Callable[[dict[str, Any]], None] | None = None
    profile_steps: int = 0
    is_preempted: Callable[[], bool] = lambda: False
    has_equal_statistics: bool = False
    heartbeat: Callable[[str], None] = lambda _: None
    suspended: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def run_dir(self) -> Path:
        """Folder where the run's files are read and written."""
        return self.store.local

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes files."""
        return self.shard.index == 0

    @property
    def local_devices(self) -> tuple[str | None, ...]:
        """Names of this worker's devices; None, TensorFlow's default, if there is only one."""
        return self.strategy.extended.worker_devices if self.shard.devices > 1 else (None,)

    def wait_for_all(self) -> None:
        """Wait, without the watchdog, until every worker has called this."""
        with self.suspended():
            wait_for_all(self.strategy)


def train_stage(stage: Stage, context: TrainingContext) -> Progress:
    """Train a stage, from its last checkpoint on, and load the weights of its best epoch.

    The best epoch is the one with the lowest validation loss.

    Args:
      stage: stage to train; its model ends with the best weights.
      context: devices and storage; all workers call this with the same stage.

    Returns:
      The stage's final progress.

    Raises:
      FloatingPointError: the loss is not finite; the message names the stage, the epoch, the step
        and the last checkpoint before.
      UserError: a device has too little memory, or a checkpoint cannot be saved.
    """
    return _StageRun(stage, context).run()


class _StageRun:
    """One worker's training of a stage."""

    def __init__(self, stage: Stage, context: TrainingContext) -> None:
        self._stage = stage
        self._context = context
        self._folder = checkpoints_folder(context.run_dir, stage.name)
        self._saving_s = 0.0  # seconds that training has waited for the last checkpoint
        self._saved_at = self._looked_at = time.monotonic()
        self._reported_at = -math.inf
        self._saved_steps = 0  # steps of the stage before the last checkpoint
        self._is_due = self._was_preempted = False
        self._best: Mapping[str, Any] = {}  # the model's variables after the best epoch
        with context.strategy.scope():
            self._optimizer = make_optimizer(stage.settings, stage.steps_per_epoch)
            self._optimizer.build(stage.model.trainable_variables)
        stage.model.optimizer = self._optimizer  # for callbacks, as after `compile`
        self._state = {
            **{f"{_MODEL}{each.path}": each for each in stage.model.variables},
            # Without the optimizer's own name, which counts the optimizers of a process.
            **{
                f"optimizer/{each.path.partition('/')[2]}": each
                for each in self._optimizer.variables
            },
        }
        num_variables = len(stage.model.variables) + len(self._optimizer.variables)
        assert len(self._state) == num_variables, "two variables have the same name"
        self._stepper = Stepper(
            context.strategy,
            stage.model,
            stage.objective,
            self._optimizer,
            context.shard.devices,
            gradient_precision=context.gradient_precision,
            jit_compile=context.jit_compile,
        )

        self._info = StageInfo(
            name=stage.name,
            epochs=stage.settings.epochs,
            model=stage.model,
            inputs=lambda: next(stage.validation.epoch(0)).inputs,
            run_dir=context.run_dir,
            config=context.config,
        )
        folder = context.run_dir / TENSORBOARD_FOLDER / stage.name
        self._profiler = Profiler(folder, context.profile_steps if context.is_chief else 0)

    def run(self) -> Progress:
        """Train from the last checkpoint to the end."""
        stage, context = self._stage, self._context
        context.log.event(
            "stage",
            stage=stage.name,
            epochs=stage.settings.epochs,
            steps=stage.steps_per_epoch,
            batch_size=stage.settings.batch_size,
            replicas=context.strategy.num_replicas_in_sync,
            parameters=stage.model.count_params(),
        )
        progress = self._resume()
        self._writer = CheckpointWriter(context.store, self._folder, context.config, progress)
        for callback in context.callbacks:
            callback.on_stage_begin(self._info)
        context.heartbeat(f"{stage.name}, first step")
        try:
            while not _is_done(progress, stage.settings):
                metrics, progress = self._epoch(progress)
                context.log.event(
                    "epoch", stage=stage.name, epoch=progress.epochs_done, metrics=metrics
                )
                self._report(metrics, progress)
            started = time.monotonic()
            with context.suspended():
                self._writer.finish()
            self._announce_checkpoints()
            self._saving_s += time.monotonic() - started
        except FloatingPointError as error:
            self._writer.close()
            last = latest_checkpoint(context.store, self._folder) or "none"
            raise FloatingPointError(f"{error} Last good checkpoint: {last}.") from error
        except tf.errors.ResourceExhaustedError as error:
            raise self._out_of_memory(error) from error
        finally:
            self._writer.close()
            self._profiler.stop()
        self._assign(self._best)
        for callback in context.callbacks:
            callback.on_stage_end(self._info)
        # No epoch's metrics contain the time of the last checkpoint: they are logged before it.
        context.log.event("done", stage=stage.name, checkpoint_seconds=self._saving_s)
        return progress

    def _epoch(self, progress: Progress) -> tuple[dict[str, float], Progress]:
        """Train the rest of an epoch, validate, and save."""
        stage, context = self._stage, self._context
        epoch = progress.epochs_done + 1
        timer = EpochTimer(checkpoint_s=self._saving_s)
        batches = self._ahead(stage.training.epoch(epoch, start=progress.steps_done))
        progress = self._train(batches, progress, timer)
        timer.add_input_wait(batches.waited_s)
        timer.stop_training()
        context.heartbeat(f"{stage.name}, validation")
        self._average_statistics()
        measured: dict[str, Mean] = {}
        validation = self._ahead(stage.validation.epoch(0))
        for _, means, _ in _one_late(self._stepper.measure, validation):
            measured = _merged(measured, *means())
            context.heartbeat(f"{stage.name}, validation")
        losses = _computed(measured)
        _check_finite(losses["loss"], f"Stage {stage.name}, epoch {epoch}, validation")
        trained = {name: Mean(*pair) for name, pair in progress.sums.items()}
        metrics = {**_computed(trained), **{f"val_{k}": value for k, value in losses.items()}}
        progress = _next(progress, losses["loss"])
        if progress.best_epoch == epoch:
            self._best = self._snapshot(_MODEL)
        rate = float(self._optimizer.learning_rate.numpy())
        if stage.settings.schedule == "plateau" and _is_on_plateau(progress):
            # Part of the optimizer's state, so a checkpoint contains it.
            self._optimizer.learning_rate = 0.5 * rate
        metrics["learning_rate"] = rate
        metrics |= timer.metrics(context.shard.num_workers)
        # Before the checkpoint: an epoch that is trained again replaces its metrics, but one that
        # has a checkpoint is not trained again.
        for callback in context.callbacks:
            callback.on_epoch_end(self._info, epoch, metrics)
        every = context.checkpoint_interval
        started = time.monotonic()
        is_epoch_due = every.epochs is not None and epoch % every.epochs == 0
        if self._is_due or is_epoch_due or self._is_step_due(progress):
            self._save(progress)
        self._saving_s = time.monotonic() - started
        return metrics, progress

    def _ahead(self, batches: Iterator[Batch]) -> ReadAhead[DeviceBatch]:
        """Return batches that are copied to the devices while earlier steps run."""
        # Enough for the next execution while one runs.
        ahead = 1 + self._context.steps_per_execution
        return ReadAhead(map(self._stepper.to_devices, batches), ahead)

    def _train(
        self, batches: Iterable[DeviceBatch], progress: Progress, timer: EpochTimer
    ) -> Progress:
        """Run the steps of an epoch; return the progress after them."""
        stage, context = self._stage, self._context
        epoch = progress.epochs_done + 1
        sums = {name: Mean(*pair) for name, pair in progress.sums.items()}

        def is_saved(steps: Sequence[tuple[int, DeviceBatch]]) -> bool:
            # After the last step the epoch itself is saved, with its validation.
            last = steps[-1][0]
            is_due = self._is_due or self._is_step_due(replace(progress, steps_done=last))
            return is_due and last < stage.steps_per_epoch

        numbered = enumerate(batches, start=progress.steps_done + 1)
        executions = _in_groups(numbered, context.steps_per_execution)
        for steps, started, saves in _one_late(self._start, executions, is_saved):
            results = started()
            requests = [means.pop(REQUESTS) for means in results]
            self._answer(requests[-1])
            for (step, batch), means in zip(steps, results, strict=True):
                where = f"Stage {stage.name}, epoch {epoch}, step {step}"
                _check_finite(means["loss"].total, where)
                _check_finite(means[GRADIENT_NORM].total, where, "gradient norm")
                context.log.step(
                    stage=stage.name,
                    epoch=epoch,
                    epochs=stage.settings.epochs,
                    step=step,
                    steps=stage.steps_per_epoch,
                    loss=means["loss"].compute(),
                )
                timer.add_examples(batch.global_count)
            step = steps[-1][0]
            context.heartbeat(f"{stage.name}, epoch {epoch}, step {step + 1}")
            sums = _merged(sums, *results)
            progress = replace(
                progress,
                steps_done=step,
                sums={name: (mean.total, mean.count) for name, mean in sums.items()},
            )
            if saves:
                with timer.checkpoint():
                    self._average_statistics()
                    self._save(progress)
        return progress

    def _start(self, steps: Sequence[tuple[int, DeviceBatch]]) -> Means:
        """Start steps. The chief asks all workers in them for what only its clock knows."""
        now, seconds = time.monotonic(), self._context.checkpoint_interval.seconds
        is_late = seconds is not None and now - self._saved_at >= seconds
        looks = now - self._looked_at >= SECONDS_BETWEEN_NOTICES
        if looks:
            self._looked_at = now
        is_chief = self._context.is_chief
        self._profiler.before(len(steps))
        requests = (is_chief and is_late, is_chief and looks)
        return self._stepper.train(*(batch for _, batch in steps), requests=requests)

    def _answer(self, requests: Mean) -> None:
        """Do what was asked for in a step, as all workers do after it."""
        asks_for_checkpoint, asks_for_notice = requests.total > 0, requests.count > 0
        self._is_due |= asks_for_checkpoint
        self._writer.check()
        self._announce_checkpoints()
        if asks_for_notice:
            with self._context.suspended():
                is_preempted = self._context.is_preempted()
            if is_preempted and not self._was_preempted:
                logger.info("%s: a machine is about to be reclaimed", self._stage.name)
                self._is_due = True
            self._was_preempted = is_preempted

    def _announce_checkpoints(self) -> None:
        """Tell the callbacks of the checkpoints that have been written since the last call."""
        for path in self._writer.take_written():
            for callback in self._context.callbacks:
                callback.on_checkpoint(self._info, path)

    def _report(self, metrics: Mapping[str, float], progress: Progress) -> None:
        """Report an epoch to Ray, now and then: each report waits for Ray to look."""
        stage, context = self._stage, self._context
        if context.report is None:
            return
        is_due = time.monotonic() - self._reported_at >= SECONDS_BETWEEN_REPORTS
        is_due |= _is_done(progress, stage.settings)
        # The chief's clock decides for all.
        (choice,) = broadcast_from_chief(context.strategy, [np.array([is_due], np.float32)])
        if choice.any():
            with context.suspended():
                context.report({"stage": stage.name, "epoch": progress.epochs_done, **metrics})
            self._reported_at = time.monotonic()

    def _is_step_due(self, progress: Progress) -> bool:
        """Return whether a multiple of the interval has been reached since the last checkpoint."""
        every = self._context.checkpoint_interval.steps
        return every is not None and self._steps(progress) // every > self._saved_steps // every

    def _steps(self, progress: Progress) -> int:
        """Return the number of steps of the stage."""
        return progress.epochs_done * self._stage.steps_per_epoch + progress.steps_done

    def _average_statistics(self) -> None:
        if not self._context.has_equal_statistics:
            variables = self._stage.model.non_trainable_variables
            average_statistics(self._context.strategy, variables)

    def _save(self, progress: Progress) -> None:
        """Have a checkpoint written while training continues."""
        self._is_due, self._saved_at = False, time.monotonic()
        self._saved_steps = self._steps(progress)
        if self._context.is_chief:
            state, best = self._snapshot(), self._best
            self._writer.save(lambda: _moved(state), lambda: _copied(best), progress)
        self._context.heartbeat(f"{self._stage.name}, after a checkpoint")

    def _snapshot(self, prefix: str = "") -> dict[str, Any]:
        """Return the values of variables as they are now, on the device; a step copies nothing."""
        chosen = {name: each for name, each in self._state.items() if name.startswith(prefix)}
        return snapshot(self._context.strategy, chosen)

    def _resume(self) -> Progress:
        """Load the last intact checkpoint that the chief sees: others may see fewer or more."""
        context = self._context
        found = intact_checkpoint(context.store, self._folder) if context.is_chief else None
        own = (0, 0) if found is None else position_of(found.name)
        (choice,) = broadcast_from_chief(context.strategy, [np.array(own, np.float32)])
        if not choice.any():
            return Progress(epochs_done=0, best_epoch=0, best_loss=math.inf)
        path = checkpoint_path(self._folder, *map(int, choice))
        progress = self._restore(context.store.await_file(path))
        self._saved_steps = self._steps(progress)
        if progress.best_epoch:
            context.store.await_file(best_path(self._folder, progress.best_epoch))
            self._best = load_best(self._folder, progress.best_epoch)
        within = f", step {progress.steps_done}" if progress.steps_done else ""
        logger.info("%s: resumed after epoch %d%s", self._stage.name, progress.epochs_done, within)
        return progress

    def _restore(self, path: Path) -> Progress:
        values, progress = load_checkpoint(path)
        if differing := sorted(values.keys() ^ self._state.keys()):
            raise UserError(
                f"Checkpoint {path} is of another model: {', '.join(differing[:3])} differ.",
                hint="Resume with the versions of laser-jnd and Keras that started the run.",
            )
        self._assign(values)
        return progress

    def _assign(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self._state[name].assign(value)

    def _out_of_memory(self, error: Exception) -> UserError:
        """Return the error for a device that cannot hold a step."""
        stage, device = self._stage, re.search(r"device:([GC]PU:\d+)", str(error))
        batch_size, replicas = (
            stage.settings.batch_size,
            self._context.strategy.num_replicas_in_sync,
        )
        return UserError(
            f"{device[1] if device else 'A device'} on {platform.node()} has too little memory for "
            f"stage {stage.name}: {-(-batch_size // replicas)} of {batch_size} examples per step.",
            hint=f"Lower {stage.settings_name}.batch_size, use more devices or machines, or set "
            "precision=bfloat16.",
        )


def make_optimizer(settings: StageConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Make Adam with the stage's schedule, clipping, and weight decay, for `Stepper`."""
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
        rate,
        global_clipnorm=settings.clip_norm,
        weight_decay=settings.weight_decay or None,
    )
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


class ReplicatedAdam(keras.optimizers.Adam):
    """Adam that takes gradients of the global batch, and keeps their norm.

    Keras 3.15 clips each replica's gradient and then sums, so the result would depend on how a
    batch is divided. Here the sum comes first, in `Stepper`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._last = threading.local()  # each replica is traced in its own thread

    @property
    def gradient_norm(self) -> Any:
        """Global norm, before it is clipped, of the gradient that this replica applied last."""
        return self._last.norm

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        self._last.norm = tf.linalg.global_norm(grads)
        return super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars: list[Any]) -> list[Any]:
        return grads_and_vars


def _in_groups(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield the items in groups of `size`, and a last group of the rest."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _one_late(
    start: Callable[[_T], _R],
    items: Iterable[_T],
    is_stop: Callable[[_T], bool] = lambda _: False,
) -> Iterator[tuple[_T, _R, bool]]:
    """Start work, and yield each when the next one has been started, so that devices never wait.

    Args:
      start: starts the work on an item.
      items: what to work on.
      is_stop: whether an item must be yielded before the next one is started, as for a checkpoint
        of the weights after it; called just before that.

    Yields:
      Each item, what `start` returned for it, and whether it is such a stop.
    """
    waiting: tuple[_T, _R] | None = None
    iterator = iter(items)
    while True:
        if waiting and is_stop(waiting[0]):  # also if reading the next item fails
            yield *waiting, True
            waiting = None
        item = next(iterator, None)
        started = None if item is None else (item, start(item))
        if waiting:
            yield *waiting, False
        if started is None:
            return
        waiting = started


def _copied(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copy values from the device."""
    return {name: np.asarray(value) for name, value in values.items()}


def _moved(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copy values from the device, and free each there."""
    return {name: np.asarray(values.pop(name)) for name in list(values)}


def _check_finite(value: float, where: str, what: str = "loss") -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{where}: the {what} is {value}. Lower the learning rate or the clip norm."
        )


def _merged(*parts: Mapping[str, Mean]) -> dict[str, Mean]:
    """Return the mean of each name over all parts."""
    result: dict[str, Mean] = {}
    for part in parts:
        result |= {name: result.get(name, Mean()).merge(mean) for name, mean in part.items()}
    return result


def _computed(sums: Mapping[str, Mean]) -> dict[str, float]:
    """Return means over the examples of all batches, without values that no example has."""
    return {name: mean.compute() for name, mean in sums.items() if mean.count}


def _next(progress: Progress, loss: float) -> Progress:
    epoch = progress.epochs_done + 1
    best_loss, best_epoch = min((progress.best_loss, progress.best_epoch), (loss, epoch))
    return Progress(epochs_done=epoch, best_epoch=best_epoch, best_loss=best_loss)


def _is_done(progress: Progress, settings: StageConfig) -> bool:
    patience = settings.patience
    waited = progress.epochs_done - progress.best_epoch
    return progress.epochs_done >= settings.epochs or (patience is not None and waited >= patience)


def _is_on_plateau(progress: Progress) -> bool:
    waited = progress.epochs_done - progress.best_epoch
    return waited > 0 and waited % PLATEAU_EPOCHS == 0
