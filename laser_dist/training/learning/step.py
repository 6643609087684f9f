"""One step of training or measuring, on one device, on several, and on several workers.

Keras's own `fit` does not run under the multi-worker strategy (keras-team/keras#20585), so the
project has its own step: each replica computes the gradients of its examples, and they are summed
over all replicas before the optimizer applies them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.examples.example_codec import as_float
from laser_dist.examples.memory_maps import ALIGNMENT, aligned
from laser_dist.examples.order import Batch
from laser_dist.training.learning.collectives import (
    norms_weighted_by,
    record_products,
    recorded_products,
    summed_gradients,
)

# Maps model outputs and targets to {name: [B] values}; "loss" is minimized. NaN means that an
# example has no such value, except in the loss, where it is an error.
Objective = Callable[[Any, Any], dict[str, Any]]
GRADIENT_NORM = "gradient_norm"  # name of its mean over the steps
REQUESTS = "requests"  # how many devices' workers asked for each of two things in a step
Means = Callable[[], list[dict[str, "Mean"]]]


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


@dataclass(frozen=True, eq=False)
class DeviceBatch:
    """A worker's part of a global batch on its devices.

    Attributes:
      values: tensors of a `Batch` by their names, on each device its part.
      global_count: number of examples of the global batch.
    """

    values: dict[str, Any]
    global_count: int


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
        gradient_precision: str = "float32",
        jit_compile: bool = False,
    ) -> None:
        """Compile the steps.

        Args:
          strategy: strategy under whose scope `model` and `optimizer` were made.
          model: model to train.
          objective: per-example losses and metrics, "loss" among them.
          optimizer: optimizer, built on the model's trainable variables; with several replicas,
            of `make_optimizer`, which does not sum gradients.
          local_replicas: number of this worker's devices.
          gradient_precision: number format in which gradients are all-reduced.
          jit_compile: whether XLA compiles each replica's computation.
        """
        self._strategy = strategy
        self._local_replicas = local_replicas
        self._is_on_host = local_replicas == 1 and not tf.config.list_logical_devices("GPU")
        num_replicas = strategy.num_replicas_in_sync
        variables = model.trainable_variables
        places = {id(variable): place for place, variable in enumerate(variables)}
        # Places of the variables whose gradients come as factors, and for each, which inputs.
        kernels: list[int] = []
        rows: list[int] = []
        if num_replicas > 1:
            record_products(model)

        def learn(batch: Mapping[str, Any], count: Any) -> Any:
            inputs, targets = _prepared(batch)
            with tf.GradientTape() as tape, norms_weighted_by(batch["weights"]):
                with recorded_products(num_replicas) as products:
                    values = objective(model(inputs, training=True), targets)
                loss = tf.reduce_sum(values["loss"] * batch["weights"]) / count
            products = [each for each in products if id(each.kernel) in places]
            kernels[:] = [places[id(each.kernel)] for each in products]
            factors = {id(each.inputs): each.inputs for each in products}
            rows[:] = [[*factors].index(id(each.inputs)) for each in products]
            others = [each for place, each in enumerate(variables) if place not in kernels]
            sources = (others, [each.outputs for each in products])
            found: Any = tape.gradient(loss, sources)
            gradients, of_outputs = found
            parts = (gradients, [*factors.values()], of_outputs)
            return parts, _sums_and_counts(values, batch["weights"])

        def summed(gradients: list[Any], inputs: list[Any], of_outputs: list[Any]) -> list[Any]:
            if num_replicas == 1:
                return gradients
            pairs = [*zip(rows, of_outputs, strict=True)]
            sums, of_kernels = summed_gradients(gradients, inputs, pairs, gradient_precision)
            for place, gradient in sorted(zip(kernels, of_kernels, strict=True)):
                sums.insert(place, tf.cast(gradient, variables[place].dtype))
            return sums

        def look(batch: Mapping[str, Any]) -> Any:
            inputs, targets = _prepared(batch)
            values = objective(model(inputs, training=False), targets)
            return _sums_and_counts(values, batch["weights"])

        if jit_compile:  # not the optimizer, which all-reduces
            learn = tf.function(learn, autograph=False, jit_compile=True)
            look = tf.function(look, autograph=False, jit_compile=True)

        def train_replica(batch: Mapping[str, Any], numbers: Any) -> Any:
            parts, sums = learn(batch, numbers[0])
            sums[REQUESTS] = numbers[1:]
            optimizer.apply_gradients(zip(summed(*parts), variables, strict=True))
            norm = getattr(optimizer, "gradient_norm", None)
            if norm is not None:  # the same in all replicas, whose values are summed
                part = tf.stack([norm, tf.ones_like(norm)]) / strategy.num_replicas_in_sync
                sums[GRADIENT_NORM] = tf.cast(part, tf.float32)
            return sums

        def measure_replica(batch: Mapping[str, Any], _: Any) -> Any:
            return look(batch)

        self._train = self._compiled(train_replica)
        self._measure = self._compiled(measure_replica)

    def to_devices(self, batch: Batch) -> DeviceBatch:
        """Copy a batch to this worker's devices; any thread can call this, ahead of the step."""
        values = {name: value for name, value in vars(batch).items() if value is not None}
        count = values.pop("global_count")
        if self._local_replicas == 1:
            to_tensor = _on_host if self._is_on_host else _to_device
            tensors: Any = keras.tree.map_structure(to_tensor, values)
            return DeviceBatch(tensors, count)
        devices = self._strategy.extended.worker_devices

        def share(context: tf.distribute.experimental.ValueContext) -> Any:
            index = context.replica_id_in_sync_group % self._local_replicas
            with tf.device(devices[index]):  # otherwise all of it goes to the first device first
                return keras.tree.map_structure(
                    lambda array: _to_device(np.array_split(array, self._local_replicas)[index]),
                    values,
                )

        return DeviceBatch(
            self._strategy.experimental_distribute_values_from_function(share), count
        )

    def train(self, *batches: DeviceBatch, requests: tuple[bool, bool] = (False, False)) -> Means:
        """Start steps that update the weights, one after the other in a single graph.

        Args:
          batches: this worker's part of the global batch of each step.
          requests: whether this worker asks for each of two things; no more all-reduces.

        Returns:
          A function that waits for the steps, and returns for each the means over the global batch
          before the update. `REQUESTS` counts the devices whose workers asked for the first thing,
          as `total`, and for the second, as `count`.
        """
        numbers = [tf.constant([each.global_count, *requests], tf.float32) for each in batches]
        return self._train([each.values for each in batches], numbers)

    def measure(self, batch: DeviceBatch) -> Means:
        """Start one step without an update; see `train`."""
        return self._measure([batch.values], [tf.constant(batch.global_count, tf.float32)])

    def _compiled(self, replica_fn: Callable[..., Any]) -> Callable[[list[Any], list[Any]], Means]:
        names: list[str] = []

        def replica(*args: Any) -> Any:
            parts = replica_fn(*args)
            names[:] = parts
            # One tensor: between workers each all-reduce costs a round trip, whatever its size.
            return tf.stack(list(parts.values()))

        # No step has a Python branch on a tensor, and AutoGraph takes a sixth of the time to trace.
        @tf.function(autograph=False)
        def steps(batches: list[Any], numbers: list[Any]) -> Any:
            results = []
            for args in zip(batches, numbers, strict=True):
                parts = self._strategy.run(replica, args=args)
                results.append(self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None))
            return tf.stack(results)

        def started(batches: list[Any], numbers: list[Any]) -> Means:
            result = steps(batches, numbers)
            # Copies the numbers from the device, when that has computed them.
            return lambda: [
                {name: Mean(*row) for name, row in zip(names, rows, strict=True)}
                for rows in result.numpy().tolist()
            ]

        return started


def _to_device(array: np.ndarray) -> Any:
    """Return an array as a tensor on the current device."""
    return tf.identity(_on_host(array))


def _on_host(array: np.ndarray) -> Any:
    """Return an array as a tensor on the CPU, without a copy if it is aligned.

    `tf.convert_to_tensor` takes 0.06 ms for the smallest of arrays, this a tenth.
    """
    if not (array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0):
        (copy,) = aligned([array.shape], array.dtype)
        copy[...] = array
        array = copy
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _prepared(batch: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return inputs and targets of a batch as float32: mirrored, and blended."""
    mirrored = batch.get("mirrored")

    def prepare(array: Any) -> Any:
        if array.dtype == tf.uint8:
            return as_float(array, mirrored)
        return tf.cast(array, tf.float32)

    inputs, targets = tf.nest.map_structure(prepare, (batch["inputs"], batch["targets"]))
    if "mates" in batch:

        def blend(own: Any, other: Any) -> Any:
            share = tf.reshape(batch["kept"], [-1, *[1] * (len(own.shape) - 1)])
            return share * own + (1.0 - share) * tf.cast(other, tf.float32)

        inputs = tf.nest.map_structure(blend, inputs, batch["mates"])
    return inputs, targets


def _sums_and_counts(values: Mapping[str, Any], weights: Any) -> dict[str, Any]:
    """Return [2] by name: the sum of the values, and the number of examples that have one."""
    parts: dict[str, Any] = {}
    for name, value in values.items():
        present = tf.ones_like(value, tf.bool) if name == "loss" else ~tf.math.is_nan(value)
        total = tf.reduce_sum(tf.where(present, value, 0.0) * weights)
        count = tf.reduce_sum(tf.where(present, weights, 0.0))
        parts[name] = tf.stack([total, count])
    return parts
