"""One of two workers that start from differing arrays: writes what it has in the end, as FILE.npz.

Arguments: its index, its own port, the other's port, FILE.
"""

import json
import os
import sys

import numpy as np


def arrays_of(index):
    """What worker `index` brings along."""
    rng = np.random.default_rng(index)
    return [rng.normal(size=(3, 2)).astype(np.float32), np.array([1e-30, index], np.float32)]


def shared_mean(strategy, index):
    """A norm's moving mean after both workers have shared it: one sees zeros, the other ones."""
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

    from laser_dist.training.learning.collectives import broadcast_from_chief, wait_for_all

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    agreed = broadcast_from_chief(strategy, arrays_of(index))
    wait_for_all(strategy)
    np.savez(path, *agreed, mean=shared_mean(strategy, index))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:4], sys.argv[4])
