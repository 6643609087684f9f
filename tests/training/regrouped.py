"""Train a head and an end-to-end model on the same global batches, grouped in several ways.

Arguments: FILE.npz for a single process with two devices; FILE.npz, the number of devices of each
worker, index and both ports for one of two workers. The arrays in the file are named
MODEL/RUN/VARIABLE.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from laser_dist.keras_import import import_keras

import_keras()  # in half the time

import keras
import tensorflow as tf
from flagship import prepare_worker

from laser_dist.examples.order import Batch, WorkerShard
from laser_dist.models.autoencoder import build_autoencoder, build_end_to_end_autoencoder
from laser_dist.models.heads import build_head
from laser_dist.models.predictors import build_joint_model
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import E2E_LAT, LAT
from laser_dist.training.config import StageConfig
from laser_dist.training.learning import collectives, step
from laser_dist.training.learning.collectives import average_statistics, weigh_batch_norms
from laser_dist.training.learning.loop import make_optimizer
from laser_dist.training.learning.objectives import JointObjective, LevelObjective
from laser_dist.training.learning.step import Stepper

NUM_STEPS, BATCH_SIZE, NUM_PERMUTATIONS = 20, 8, 4
BACKBONE = BackboneSpec(filters=4, latent_filters=6, height=32, width=48)
HEAD = HeadSpec(filters=(6, 8), dense=(5,), pooling="average", knee=0.2)
# Kernels [64, 48] have more numbers than their gradients' factors for a batch of 8.
INPUTS, HIDDEN = 64, 48
SETTINGS = StageConfig(epochs=1, batch_size=BATCH_SIZE, learning_rate=2e-3, schedule="cosine")
MODELS = ("head", "joint", "factored")
FACTORED = "factored"  # the model with kernels whose gradients are gathered in factors
UNSYNCHRONIZED = "head"  # the model that shows the effect of norms that are not


def build(name):
    """Build the model of a stage as `stages` does, and its objective."""
    keras.utils.set_random_seed(1)
    if name == "head":
        shape = LAT.feature_shape(BACKBONE)
        return build_head(HEAD, shape, levels=1, initial_levels=(26,)), LevelObjective((1,))
    if name == FACTORED:
        x = keras.Input((INPUTS,))
        hidden = [keras.layers.Dense(HIDDEN, "relu", name=f"hidden{n}")(x) for n in range(2)]
        last = keras.layers.Dense(1, name="level")
        return keras.Model(x, last(keras.layers.Add()(hidden))), LevelObjective((1,))
    image = build_autoencoder(BACKBONE, "image")
    autoencoder = build_end_to_end_autoencoder(BACKBONE, image, "e2e-lat-jnd1")
    head = build_head(HEAD, E2E_LAT.feature_shape(BACKBONE), levels=1, initial_levels=(26,))
    return build_joint_model(E2E_LAT, autoencoder, head), JointObjective(LevelObjective((1,)))


def batches(name, order=range(BATCH_SIZE), shard=None):
    """Yield the same global batches, with their examples in an order, or a worker's shard of them.

    The last batch has 5 examples and is padded with 3 of them.
    """
    rng = np.random.default_rng(0)
    order = np.array(order)
    for number in range(NUM_STEPS):
        count = BATCH_SIZE if number < NUM_STEPS - 1 else 5
        indices = np.arange(BATCH_SIZE) % count
        # As in latents, the mean is far from zero, where variance formulas differ most.
        features = rng.normal(3, 1, (BATCH_SIZE, *BACKBONE.latent_shape))
        frames = rng.uniform(0, 255, (2, BATCH_SIZE, *BACKBONE.frame_shape))
        levels = rng.normal(26, 3, (BATCH_SIZE, 1))
        vectors = rng.normal(size=(BATCH_SIZE, INPUTS))
        weights = np.arange(BATCH_SIZE) < count
        chosen, own = indices[order], weights[order]
        if shard is not None:
            part = shard.slice_of(count, BATCH_SIZE)
            chosen, own = part.places, part.weights
        take = lambda array, chosen=chosen: array[chosen].astype(np.float32)  # noqa: E731
        if name == "head":
            inputs, targets = take(features), take(levels)
        elif name == FACTORED:
            inputs, targets = take(vectors), take(levels)
        else:
            inputs, targets = take(frames[0]), [take(frames[1]), take(levels)]
        yield Batch(inputs, targets, own.astype(np.float32), count)


def groupings(name):
    """Return whether norms are synchronized; building each graph takes seconds per device."""
    return (True, False) if name == UNSYNCHRONIZED else (True,)


class Learner:
    """Model that can be trained several times from the same start."""

    def __init__(self, name, strategy, *, synchronized, local_replicas=1):
        self.strategy = strategy
        with strategy.scope():
            self.model, objective = build(name)
            optimizer = make_optimizer(SETTINGS, NUM_STEPS)
            optimizer.build(self.model.trainable_variables)
        config = json.dumps(self.model.get_config(), default=str)
        weigh_batch_norms(strategy, self.model, synchronized=synchronized)
        assert json.dumps(self.model.get_config(), default=str) == config, (
            "the saved configuration changed"
        )
        self.stepper = Stepper(strategy, self.model, objective, optimizer, local_replicas)
        self.state = [*self.model.variables, *optimizer.variables]
        self.start = [variable.numpy() for variable in self.state]

    def train(self, batches):
        """Train on all batches and return the weights by name."""
        for variable, value in zip(self.state, self.start, strict=True):
            variable.assign(value)
        for batch in batches:
            self.stepper.train(self.stepper.to_devices(batch))
        average_statistics(self.strategy, self.model.non_trainable_variables)
        return self.weights()

    def weights(self):
        return {weight.path.replace("/", "."): weight.numpy() for weight in self.model.weights}


collectives.LEAST_FACTORED_BYTES = 1
num_gathered = []  # inputs and kernels that each traced replica gathers
summed_gradients = step.summed_gradients


def noting_gathered(gradients, inputs, of_outputs, precision):
    """Sum, and note how many inputs and kernels are gathered."""
    num_gathered.append((len(inputs), len(of_outputs)))
    return summed_gradients(gradients, inputs, of_outputs, precision)


step.summed_gradients = noting_gathered


def one_process():
    """Train on one device, with the examples in several orders, and on two devices."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    orders = [np.random.default_rng(i).permutation(BATCH_SIZE) for i in range(NUM_PERMUTATIONS)]
    for name in MODELS:
        single = Learner(name, tf.distribute.get_strategy(), synchronized=True)
        yield f"{name}/start", single.weights()
        yield f"{name}/one", single.train(batches(name))
        for number, order in enumerate(orders):
            yield f"{name}/permuted{number}", single.train(batches(name, order))
        for synchronized in groupings(name):
            learner = Learner(name, mirrored, synchronized=synchronized, local_replicas=2)
            run = "synchronized" if synchronized else "unsynchronized"
            num_gathered.clear()
            yield f"{name}/{run}", learner.train(batches(name))
        yield f"{name}/gathered", {"numbers": np.array(num_gathered)}


def one_of_two_workers(index, devices):
    """Train as one of two workers; both end with the same weights."""
    if devices > 1:
        prepare_worker()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2 * devices
    shard = WorkerShard(index, 2, devices)
    for name in MODELS:
        for synchronized in groupings(name) if devices == 1 else (True,):
            learner = Learner(name, strategy, synchronized=synchronized, local_replicas=devices)
            run = "synchronized" if synchronized else "unsynchronized"
            num_gathered.clear()
            yield f"{name}/{run}", learner.train(batches(name, shard=shard))
        yield f"{name}/gathered", {"numbers": np.array(num_gathered)}


def main(path, devices=None, index=None, *ports):
    if devices is None:
        runs = one_process()
    else:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        task = {"type": "worker", "index": int(index)}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        runs = one_of_two_workers(int(index), int(devices))
    arrays = {f"{run}/{name}": array for run, weights in runs for name, array in weights.items()}
    np.savez(Path(path), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
