"""Run one of two workers that start from different arrays, and write its final arrays to FILE.npz.

Arguments: index of the worker, ports of worker 0 and worker 1, FILE.
"""

import json
import os
import sys

import numpy as np


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
    np.savez(path, *received, mean=shared_mean(strategy, index), refusals=refusals)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:4], sys.argv[4])
