"""What one worker process does: sets up TensorFlow, then runs the stages."""

import sys
from collections.abc import Sequence
from typing import Any

from laser_dist.training.config import TrainingConfig, from_dict

PACK_BYTES = 8 << 20  # of a gradient, summed between workers at a time


def work(
    run_config: dict[str, Any],
    stages: Sequence[str],
    *,
    worker_index: int = 0,
    num_workers: int = 1,
) -> None:
    """Runs stages on this worker.

    Args:
      run_config: what `runs.start_run` wrote, and `work`, what `run_stages` takes: plain values, so
        that it travels anywhere.
      stages: names of those to train, in order.
      worker_index: from 0, the chief.
      num_workers: in the run; above 1, `TF_CONFIG` names them all.

    Raises:
      RuntimeError: `keras` is not Keras 3 on TensorFlow.
    """
    config: TrainingConfig = from_dict(run_config["training"])
    import keras
    import tensorflow as tf

    _check_keras(keras)
    threads = config.cluster.cpus_per_worker
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    strategy = make_strategy(num_workers)
    if config.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")

    from laser_dist.training.examples.order import Share
    from laser_dist.training.learning.loop import Place
    from laser_dist.training.learning.together import check_shared
    from laser_dist.training.learning.watchdog import Watchdog
    from laser_dist.training.stages import run_stages
    from laser_dist.training.storage.logs import RunLog
    from laser_dist.training.storage.run_store import RunStore

    is_chief = worker_index == 0
    log = RunLog(RunStore(run_config["run_dir"]), is_chief=is_chief, name=stages[0])

    def tell(text: str) -> None:
        log.event("note", text=text)

    watchdog = Watchdog(config.cluster.hang_timeout_s, tell)

    def tell_of_store(text: str) -> None:
        watchdog.beat(text)
        tell(text)

    store = RunStore(run_config["run_dir"], tell_of_store)
    place = Place(
        strategy=strategy,
        local_replicas=strategy.num_replicas_in_sync // num_workers,
        is_chief=is_chief,
        store=store,
        log=log,
        config={name: value for name, value in run_config.items() if name != "work"},
        jit_compile=config.jit_compile,
        checkpoint_every_steps=config.checkpoint_every_steps,
        beat=watchdog.beat,
        paused=watchdog.paused,
    )
    share = Share(worker_index, num_workers, place.local_replicas)
    dataset = run_config["dataset"]["dir"]
    with watchdog.watching():
        if num_workers > 1:
            check_shared(strategy, store, is_chief=is_chief)
        if num_workers != config.cluster.num_workers:
            tell(f"{num_workers} workers: as many as there is room for now")
        run_stages(config, dataset, share, place, run_config["work"], stages)


def _check_keras(keras: Any) -> None:
    """Refuses another Keras than 3 on TensorFlow: Ray's workers ask TensorFlow for the old one."""
    if not keras.__version__.startswith("3.") or keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras: expected version 3 on TensorFlow, got {keras.__version__} on "
            f"{keras.backend.backend()} ({sys.modules['keras'].__file__})."
        )


def make_strategy(num_workers: int) -> Any:
    """One device, several mirrored, or several workers: each worker's own devices either way."""
    import tensorflow as tf

    if num_workers > 1:
        # Else all of a gradient is copied into one piece before any of it is summed.
        packs = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK_BYTES)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=packs)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()
