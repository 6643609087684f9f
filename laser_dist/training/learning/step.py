"""One step of training or measuring, on one device, on several, and on several workers.

Keras's own `fit` does not run under the multi-worker strategy (keras-team/keras#20585), so the
project has its own step: each replica computes the gradients of its examples, and the optimizer
sums them over all replicas before it applies them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.training.examples.order import Batch

# Maps model outputs and targets to {name: [B] values}; "loss" is minimized. NaN means that an
# example has no such value, except in the loss, where it is an error.
Objective = Callable[[Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class Mean:
    """A running mean, which combines exactly over replicas, workers and batches.

    Attributes:
      total: sum of the values.
      count: number of the values.
    """

    total: float = 0.0
    count: float = 0.0

    def merge(self, other: "Mean") -> "Mean":
        """Return the mean over the values of both."""
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> float:
        """Return the mean, NaN if there is no value."""
        return self.total / self.count if self.count else math.nan


class Stepper:
    """Runs steps of one model under a strategy.

    A replica's loss is the sum over its examples, divided by their number in the global batch. So
    the gradient, summed over replicas, is that of the global batch's mean, however it is divided.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        objective: Objective,
        optimizer: keras.optimizers.Optimizer,
        local_replicas: int,
        *,
        jit_compile: bool = False,
    ) -> None:
        """Compile the steps.

        Args:
          strategy: strategy under whose scope `model` and `optimizer` were made.
          model: model to train.
          objective: per-example losses and metrics, "loss" among them.
          optimizer: optimizer, built on the model's trainable variables.
          local_replicas: number of this worker's devices.
          jit_compile: whether XLA compiles each replica's computation.
        """
        self._strategy = strategy
        self._local_replicas = local_replicas

        def learn(inputs: Any, targets: Any, weights: Any, count: Any) -> Any:
            with tf.GradientTape() as tape:
                values = objective(model(inputs, training=True), targets)
                loss = tf.reduce_sum(values["loss"] * weights) / count
            gradients = tape.gradient(loss, model.trainable_variables)
            return gradients, _sums_and_counts(values, weights)

        def look(inputs: Any, targets: Any, weights: Any) -> Any:
            return _sums_and_counts(objective(model(inputs, training=False), targets), weights)

        if jit_compile:  # not the optimizer, which all-reduces
            learn = tf.function(learn, jit_compile=True)
            look = tf.function(look, jit_compile=True)

        def train_replica(inputs: Any, targets: Any, weights: Any, count: Any) -> Any:
            gradients, sums = learn(inputs, targets, weights, count)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return sums

        def measure_replica(inputs: Any, targets: Any, weights: Any, _: Any) -> Any:
            return look(inputs, targets, weights)

        self._train = self._compiled(train_replica)
        self._measure = self._compiled(measure_replica)

    def train(self, batch: Batch) -> dict[str, Mean]:
        """Update the weights by one step; return means over the global batch before the update."""
        return self._run(self._train, batch)

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Return means over the global batch, without an update."""
        return self._run(self._measure, batch)

    def _compiled(self, replica_fn: Callable[..., Any]) -> Callable[..., dict[str, Mean]]:
        names: list[str] = []

        def replica(*args: Any) -> Any:
            parts = replica_fn(*args)
            names[:] = parts
            # One tensor: between workers each all-reduce costs a round trip, whatever its size.
            return tf.stack(list(parts.values()))

        @tf.function
        def step(*args: Any) -> Any:
            parts = self._strategy.run(replica, args=args)
            return self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

        def named(*args: Any) -> dict[str, Mean]:
            rows = step(*args).numpy().tolist()
            return {name: Mean(*row) for name, row in zip(names, rows, strict=True)}

        return named

    def _run(self, step: Callable[..., dict[str, Mean]], batch: Batch) -> dict[str, Mean]:
        count = tf.constant(batch.global_count, tf.float32)
        parts = [self._spread(part) for part in (batch.inputs, batch.targets, batch.weights)]
        return step(*parts, count)

    def _spread(self, array: Any) -> Any:
        """Divide this worker's part evenly over its devices."""
        if self._local_replicas == 1:
            return tf.nest.map_structure(tf.convert_to_tensor, array)

        def share(context: tf.distribute.experimental.ValueContext) -> Any:
            index = context.replica_id_in_sync_group % self._local_replicas
            return tf.nest.map_structure(
                lambda values: tf.convert_to_tensor(
                    np.array_split(values, self._local_replicas)[index]
                ),
                array,
            )

        return self._strategy.experimental_distribute_values_from_function(share)


def _sums_and_counts(values: Mapping[str, Any], weights: Any) -> dict[str, Any]:
    """Return [2] by name: the sum of the values, and the number of examples that have one."""
    parts: dict[str, Any] = {}
    for name, value in values.items():
        present = tf.ones_like(value, tf.bool) if name == "loss" else ~tf.math.is_nan(value)
        total = tf.reduce_sum(tf.where(present, value, 0.0) * weights)
        count = tf.reduce_sum(tf.where(present, weights, 0.0))
        parts[name] = tf.stack([total, count])
    return parts
