"""Run one of two workers that start from different arrays, and write what it has to FILE.npz.

Arguments: index of the worker, ports of worker 0 and worker 1, FILE.
"""

import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

TESTS = Path(__file__).parents[1]


def arrays_of(index):
    """Return the arrays that worker `index` starts with."""
    rng = np.random.default_rng(index)
    return [rng.normal(size=(3, 2)).astype(np.float32), np.array([1e-30, index], np.float32)]


def shared_mean(strategy, index):
    """Return a batch norm's moving mean, averaged over two workers that see 0 and 1."""
    import keras
    import tensorflow as tf

    from laser_dist.training.learning.collectives import average_statistics

    with strategy.scope():
        norm = keras.layers.BatchNormalization(momentum=0.0)
        norm.build((None, 1))
    strategy.run(lambda: norm(tf.fill([2, 1], float(index)), training=True))
    average_statistics(strategy, norm.non_trainable_variables)
    return norm.moving_mean.numpy()


def saves(strategy, index, run_dir):
    """Train while time passes for the chief only; return [n, 2]: epochs and steps at each save."""
    sys.path.append(str(TESTS))
    from training_fakes import context, linear_stage

    from laser_dist.examples.order import WorkerShard
    from laser_dist.training.config import CheckpointInterval
    from laser_dist.training.learning import loop
    from laser_dist.training.storage.logs import RunLog

    clock = itertools.count(step=0 if index else 30)
    loop.time = SimpleNamespace(monotonic=lambda: next(clock))
    found, save = [], loop._StageRun._save

    def recorded(run, progress):
        found.append((progress.epochs_done, progress.steps_done))
        save(run, progress)

    loop._StageRun._save = recorded
    rng = np.random.default_rng(0)
    with strategy.scope():
        start, features, levels = np.zeros((3, 2)), rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
        stage = linear_stage(start, features, levels, epochs=3)
    shard = WorkerShard(index, 2)
    own = {part: replace(getattr(stage, part), shard=shard) for part in ("training", "validation")}
    alone = context(run_dir)
    shared = replace(
        alone,
        strategy=strategy,
        shard=shard,
        log=RunLog(alone.store, is_chief=index == 0),
        callbacks=(),
        checkpoint_interval=CheckpointInterval(seconds=60),
    )
    loop.train_stage(replace(stage, **own), shared)
    return np.array(found)


def main(index, ports, path):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": index}}
    )
    import tensorflow as tf

    from laser_dist.errors import UserError
    from laser_dist.training.learning.collectives import (
        broadcast_from_chief,
        check_same_devices,
        wait_for_all,
    )

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    received = broadcast_from_chief(strategy, arrays_of(index))
    wait_for_all(strategy)
    check_same_devices(strategy, "NVIDIA A")
    refusals = []
    try:
        check_same_devices(strategy, f"NVIDIA {'AB'[index]}")
    except UserError as error:
        refusals.append(error.message)
    np.savez(
        path,
        *received,
        mean=shared_mean(strategy, index),
        refusals=refusals,
        saves=saves(strategy, index, Path(path).parent / "run"),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:4], sys.argv[4])
