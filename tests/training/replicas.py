"""Train one model on one device and on two, and write the differences to FILE.json."""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from laser_dist.keras_import import import_keras

import_keras()

import keras
import tensorflow as tf

from laser_dist.examples.order import Batch, WorkerShard
from laser_dist.training.config import StageConfig
from laser_dist.training.devices import use_devices
from laser_dist.training.learning.collectives import (
    average_statistics,
    summed_gradients,
    weigh_batch_norms,
)
from laser_dist.training.learning.loop import make_optimizer
from laser_dist.training.learning.objectives import LevelObjective
from laser_dist.training.learning.step import Stepper
from laser_dist.training.worker import make_strategy

NUM_STEPS = 5
NUM_DEVICES = (3, 5, 6, 7)  # of 5 and more, the last have only padding
PRECISIONS = ("float32", "bfloat16")


def batches():
    """Yield batches of size 6; in the last, only the first device has examples, 2 of its 3."""
    rng = np.random.default_rng(0)
    for count in [6] * (NUM_STEPS - 1) + [2]:
        inputs = [rng.normal(size=(6, 3)).astype(np.float32) for _ in range(2)]
        targets = 5 * rng.normal(size=(6, 2)).astype(np.float32)
        targets[::3, 1] = np.nan  # missing for one of each device's three examples
        yield Batch(inputs, targets, (np.arange(6) < count).astype(np.float32), count)


def train(strategy):
    """Return the weights at the start and the end, and the means of each step."""
    with strategy.scope():
        keras.utils.set_random_seed(1)
        inputs = [keras.Input((3,)), keras.Input((3,))]
        hidden = keras.layers.Dense(4, activation="tanh")(keras.layers.Multiply()(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
        # The norm is so small that every step's gradient is clipped.
        settings = StageConfig(epochs=1, learning_rate=0.1, clip_norm=0.01, schedule="cosine")
        optimizer = make_optimizer(settings, NUM_STEPS)
        optimizer.build(model.trainable_variables)
    start = model.get_weights()
    replicas = strategy.num_replicas_in_sync
    stepper = Stepper(strategy, model, LevelObjective((1, 2)), optimizer, local_replicas=replicas)
    means = [stepper.train(stepper.to_devices(batch))()[0] for batch in batches()]
    means += [stepper.measure(stepper.to_devices(batch))()[0] for batch in batches()]
    plain = [{name: (one.total, one.count) for name, one in each.items()} for each in means]
    return start, model.get_weights(), plain


def train_norm(strategy, *, synchronized=True):
    """Return first and final weights of a model with a batch norm; the last batch has 5, not 8."""
    devices = strategy.num_replicas_in_sync
    with strategy.scope():
        keras.utils.set_random_seed(1)
        frames = keras.Input((2, 2, 3))
        normed = keras.layers.BatchNormalization(momentum=0.5)(
            keras.layers.Dense(4, use_bias=False)(frames)
        )
        pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(normed))
        model = keras.Model(frames, keras.layers.Dense(1)(pooled))
        optimizer = make_optimizer(StageConfig(epochs=1, learning_rate=0.05), NUM_STEPS)
        optimizer.build(model.trainable_variables)
    weigh_batch_norms(strategy, model, synchronized=synchronized)
    stepper = Stepper(strategy, model, LevelObjective((1,)), optimizer, local_replicas=devices)
    rng, start = np.random.default_rng(0), model.get_weights()
    for count in [8] * (NUM_STEPS - 1) + [5]:
        inputs = rng.normal(3, 1, size=(count, 2, 2, 3)).astype(np.float32)
        targets = rng.normal(0, 5, size=(count, 1)).astype(np.float32)
        part = WorkerShard(0, 1, devices).slice_of(count, 8)
        one = Batch(inputs[part.places], targets[part.places], part.weights, count)
        stepper.train(stepper.to_devices(one))()
    average_statistics(strategy, model.non_trainable_variables)
    return start, model.get_weights()


def shared_mean(strategy):
    """Return the moving mean of a batch norm on two devices, before and after averaging.

    The first device sees zeros, the second sees ones; without momentum these are the means.
    """
    with strategy.scope():
        norm = keras.layers.BatchNormalization(momentum=0.0)
        norm.build((None, 1))

    @tf.function
    def update():
        strategy.run(lambda: norm(tf.fill([2, 1], device_index()), training=True))

    def device_index():
        context = tf.distribute.get_replica_context()
        return tf.cast(context.replica_id_in_sync_group, tf.float32)

    def means():
        parts = strategy.experimental_local_results(norm.moving_mean.value)
        return [float(part.numpy()[0]) for part in parts]

    update()
    before = means()
    average_statistics(strategy, norm.non_trainable_variables)
    return before, means()


def sent_gradients(strategy, precision):
    """Return the gradients of two devices, [2, 50], and the sum that each of them gets, [2, 50]."""
    gradients = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)

    @tf.function
    def add_up():
        def replica():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            own = tf.gather(tf.constant(gradients), index)
            return summed_gradients([own], [], [], precision)[0][0]

        return strategy.run(replica)

    sums = [each.numpy().tolist() for each in strategy.experimental_local_results(add_up())]
    return gradients.tolist(), sums


def largest_difference(weights, others):
    return max(float(abs(a - b).max()) for a, b in zip(weights, others, strict=True))


def smallest_difference(weights, others):
    return min(float(abs(a - b).max()) for a, b in zip(weights, others, strict=True))


def train_norm_alone():
    """Return first and final weights of one device as lists."""
    weights = train_norm(tf.distribute.get_strategy())
    return [[each.tolist() for each in part] for part in weights]


def compare_norms(devices, alone):
    """Return how far the final weights of several devices are from those of one device."""
    start, one = ([np.array(each) for each in part] for part in alone)
    use_devices(gpus=0, cpu_devices=devices)
    strategy = make_strategy(num_workers=1)
    assert strategy.num_replicas_in_sync == devices
    found = {
        "moved": smallest_difference(start, one),
        "difference": largest_difference(one, train_norm(strategy)[1]),
    }
    if devices == NUM_DEVICES[0]:
        own = train_norm(strategy, synchronized=False)[1]
        found["unsynchronized"] = largest_difference(one, own)
    return found


def in_child(function, *arguments):
    """Call a function in a child process: TensorFlow has one number of devices in each."""
    with tempfile.TemporaryFile("w+") as file:
        if not (child := os.fork()):
            json.dump(function(*arguments), file)
            file.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        file.seek(0)
        return json.load(file)


def compare_two_devices():
    use_devices(gpus=0, cpu_devices=2)
    two_devices = make_strategy(num_workers=1)
    start, one, means_of_one = train(tf.distribute.get_strategy())
    same_start, two, means_of_two = train(two_devices)
    assert largest_difference(start, same_start) == 0
    return {
        "replicas": two_devices.num_replicas_in_sync,
        "moved": largest_difference(start, one),
        "largest_difference": largest_difference(one, two),
        "means_of_one": means_of_one,
        "means_of_two": means_of_two,
        "shared": shared_mean(two_devices),
        "gradients": {each: sent_gradients(two_devices, each) for each in PRECISIONS},
    }


def main(path):
    result = in_child(compare_two_devices)
    alone = in_child(train_norm_alone)
    result["norms"] = {count: in_child(compare_norms, count, alone) for count in NUM_DEVICES}
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
