"""One worker process: sets up TensorFlow, then runs the stages."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from laser_dist.examples.order import WorkerShard
from laser_dist.keras_import import import_keras
from laser_dist.machine import keep_freed_memory
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import TrainingConfig, from_dict
from laser_dist.training.devices import use_devices
from laser_dist.training.learning.watchdog import Watchdog
from laser_dist.training.storage.checkpoints import WRITING_THREAD
from laser_dist.training.storage.logs import RunLog, progress_logger

if TYPE_CHECKING:
    from laser_dist.training.learning.callbacks import Callback
    from laser_dist.training.learning.loop import TrainingContext

PACK_BYTES = 8 << 20  # of a gradient, all-reduced between workers at a time

logger = logging.getLogger(__name__)


def work(
    runs: Sequence[tuple[dict[str, Any], Sequence[str]]],
    *,
    worker_index: int = 0,
    num_workers: int = 1,
    prints_progress: bool = False,
    callbacks: "Sequence[Callback]" = (),
    report: Callable[[dict[str, Any]], None] | None = None,
    is_preempted: Callable[[], bool] = lambda: False,
) -> None:
    """Run stages of one or several runs on this worker.

    Args:
      runs: for each run, its configuration of `runs.start_run` with `work`, as for `run_stages`,
        and the names of the stages to train, in order: plain values that can be sent to another
        process. All runs have the same settings of workers and the same precision.
      worker_index: number of this worker, from 0, the chief.
      num_workers: number of workers; above 1, `TF_CONFIG` names them all.
      prints_progress: whether the chief prints progress to stderr.
      callbacks: called by the chief, after those that write the run's own logs.
      report: as in `TrainingContext`.
      is_preempted: as in `TrainingContext`.

    Raises:
      RuntimeError: `keras` is not Keras 3 on TensorFlow.
    """
    config: TrainingConfig = from_dict(runs[0][0]["training"])
    strategy, devices = _set_up_tensorflow(config, num_workers)

    from laser_dist.training.learning.collectives import check_same_devices
    from laser_dist.training.learning.loop import TrainingContext

    if num_workers > 1:
        check_same_devices(strategy, devices)
    _set_up_logging(prints_progress=prints_progress)
    shard = WorkerShard(worker_index, num_workers, strategy.num_replicas_in_sync // num_workers)
    make_context = partial(
        TrainingContext, strategy=strategy, shard=shard, report=report, is_preempted=is_preempted
    )
    for run_config, stages in runs:
        _train(run_config, stages, shard, make_context, callbacks, prints_progress)


def _train(
    run_config: dict[str, Any],
    stages: Sequence[str],
    shard: WorkerShard,
    make_context: "Callable[..., TrainingContext]",
    callbacks: "Sequence[Callback]",
    prints_progress: bool,
) -> None:
    """Run stages of one run."""
    from laser_dist.training.learning.callbacks import CsvLogger, TensorBoardLogger
    from laser_dist.training.learning.collectives import check_shared
    from laser_dist.training.stages import run_stages

    config: TrainingConfig = from_dict(run_config["training"])
    store = RunFiles(run_config["run_dir"])
    watchdog = Watchdog(config.cluster.hang_timeout_s)
    is_chief, num_workers = shard.index == 0, shard.num_workers
    log = RunLog(store, is_chief=is_chief, name=stages[0], prints=prints_progress)
    context = make_context(
        store=store,
        log=log,
        config={name: value for name, value in run_config.items() if name != "work"},
        jit_compile=config.jit_compile,
        gradient_precision=config.gradient_precision,
        checkpoint_interval=config.checkpoint_interval,
        callbacks=(CsvLogger(store), TensorBoardLogger(store), *callbacks) if is_chief else (),
        steps_per_execution=config.steps_per_execution,
        profile_steps=config.profile_steps,
        has_equal_statistics=config.synchronized_batch_norm,
        heartbeat=watchdog.heartbeat,
        suspended=watchdog.suspended,
    )
    with _logging_to(log, watchdog), watchdog.watching():
        if num_workers > 1:
            if is_chief:
                _warn_of_ports()
            check_shared(context.strategy, store, is_chief=is_chief)
        if num_workers != config.cluster.num_workers:
            logger.info("%d workers: the cluster has no room for more now", num_workers)
        run_stages(config, context, run_config["work"], stages)


def _warn_of_ports() -> None:
    """Name the open ports of workers on one machine; the network of a cluster is private.

    TensorFlow listens on all interfaces, whatever address `TF_CONFIG` names.
    """
    addresses = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
    hosts, _, ports = zip(*(address.rpartition(":") for address in addresses), strict=True)
    if len(set(hosts)) == 1:
        logger.warning(
            "While this training runs, its %d workers listen on all network interfaces of this "
            "machine, on ports %s, and require no password",
            len(ports),
            ", ".join(ports),
        )


class _EventHandler(logging.Handler):
    """Adds log records to the run's events; each also counts as a heartbeat."""

    def __init__(self, log: RunLog, watchdog: Watchdog) -> None:
        super().__init__()
        self._log, self._watchdog = log, watchdog

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # What the thread that writes checkpoints says does not show that the steps go on.
        if not (record.threadName or "").startswith(WRITING_THREAD):
            self._watchdog.heartbeat(text)
        self._log.event("note", text=text, warning=record.levelno >= logging.WARNING)


def _set_up_logging(*, prints_progress: bool) -> None:
    logging.getLogger("laser_dist").setLevel(logging.INFO)
    if prints_progress:
        progress_logger.setLevel(logging.INFO)
        progress_logger.addHandler(logging.StreamHandler())


@contextmanager
def _logging_to(log: RunLog, watchdog: Watchdog) -> Iterator[None]:
    """Add log records to a run's events while the block runs."""
    ours, handler = logging.getLogger("laser_dist"), _EventHandler(log, watchdog)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


def _set_up_tensorflow(config: TrainingConfig, num_workers: int) -> tuple[Any, str]:
    """Set devices, threads and precision; return the strategy and the model of the devices."""
    import_keras(gpus="all")
    import keras
    import tensorflow as tf

    # Ray's workers ask TensorFlow for the old Keras.
    if not keras.__version__.startswith("3.") or keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras 3 on TensorFlow is required, but {sys.modules['keras'].__file__} is Keras "
            f"{keras.__version__} on {keras.backend.backend()}."
        )
    keep_freed_memory()
    threads = config.cluster.num_cpus
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    devices = use_devices(config.cluster.gpus_per_worker, config.cluster.cpu_devices)
    strategy = make_strategy(num_workers)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    if config.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    return strategy, devices


def make_strategy(num_workers: int) -> Any:
    """Return the strategy for all devices that this process can use, times the workers."""
    import tensorflow as tf

    if num_workers > 1:
        # Otherwise the complete gradient is copied into one piece before any of it is all-reduced.
        kinds = tf.distribute.experimental.CommunicationImplementation
        options = tf.distribute.experimental.CommunicationOptions(
            bytes_per_pack=PACK_BYTES,
            # TensorFlow's own choice is never NCCL.
            implementation=kinds.NCCL if tf.config.get_visible_devices("GPU") else kinds.AUTO,
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()
