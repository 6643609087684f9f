"""Operations that all workers of a run do together: barriers, broadcasts, shared moments."""

import hashlib
import platform
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.errors import UserError
from laser_dist.storage.run_files import RunFiles

_SUM = tf.distribute.ReduceOp.SUM


class _Traced(threading.local):
    """State of the step that is traced now; each replica is traced in its own thread.

    Attributes:
      weights: weights of the examples that batch norms see; None for equal ones.
      products: products of dense layers since recording began; None if it has not.
    """

    weights: Any = None
    products: "list[Product] | None" = None


_traced = _Traced()

LEAST_FACTORED_BYTES = 1 << 20
"""Least size of a kernel's gradient that is gathered in factors: a gather takes two round trips."""


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product in a dense layer.

    Attributes:
      kernel: variable [i, o].
      inputs: [b, i] of the examples of a replica.
      outputs: [b, o].
    """

    kernel: Any
    inputs: Any
    outputs: Any


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Wait until every worker has called this."""
    _summed(strategy, [np.float32(0)])


def broadcast_from_chief(
    strategy: tf.distribute.Strategy, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Return the chief's arrays on every worker, bit for bit.

    Machines of different kinds may compute the same values with other last bits.

    Args:
      strategy: spans the workers; all of them call this.
      arrays: finite, with the same shapes and types on every worker.
    """
    if _num_workers(strategy) == 1:
        return [*arrays]
    is_chief = strategy.cluster_resolver.task_id == 0
    return _summed(strategy, [each if is_chief else np.zeros_like(each) for each in arrays])


def all_agree(strategy: tf.distribute.Strategy, holds: bool) -> bool:
    """Return whether a condition holds on every worker; each worker gets the same answer.

    One machine may see a file in a shared folder before another one does.
    """
    (count,) = _summed(strategy, [np.float32(holds)])
    return round(float(count)) == _num_workers(strategy)


def check_shared(strategy: tf.distribute.Strategy, store: RunFiles, *, is_chief: bool) -> None:
    """Check that all machines see the same run folder.

    Args:
      strategy: spans the workers; all of them call this.
      store: storage of the run.
      is_chief: whether this worker is the first one.

    Raises:
      UserError: a worker does not find what the chief has written.
    """
    random = np.frombuffer(uuid.uuid4().bytes, np.uint8).astype(np.float32)
    name = broadcast_from_chief(strategy, [random])[0].astype(np.uint8).tobytes().hex()
    mark = store.local / f".shared-{name}"
    if is_chief:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text("")
        store.push(mark)
    wait_for_all(strategy)
    try:
        store.await_file(mark)
        found = True
    except FileNotFoundError:
        found = False
    shared = all_agree(strategy, found)
    if is_chief:
        store.remove(mark)
    if not shared:
        where = "on another machine" if found else f"on {platform.node()}"
        raise UserError(
            f"The run folder {store.location} is not shared: the chief's files are missing "
            f"{where}.",
            hint="Use a bucket (--output s3://…, gs://…) or a folder on a shared disk.",
        )


def check_same_devices(strategy: tf.distribute.Strategy, model: str) -> None:
    """Check that all workers have devices of the same model.

    Args:
      strategy: spans the workers; all of them call this.
      model: model of this worker's devices, of `use_devices`.

    Raises:
      UserError: a worker has devices of another model than the chief.
    """
    digest = np.frombuffer(hashlib.sha256(model.encode()).digest(), np.uint8).astype(np.float32)
    is_same = np.array_equal(broadcast_from_chief(strategy, [digest])[0], digest)
    if not all_agree(strategy, is_same):
        raise UserError(
            f"The workers have different devices; one on {platform.node()} has {model}.",
            hint="Train on machines of one kind: the slowest device would set the pace of all.",
        )


def average_statistics(strategy: tf.distribute.Strategy, variables: Sequence[Any]) -> None:
    """Set all replicas' copies of each variable to their mean.

    Batch norms that are not synchronized use the moments of their replica's part of a batch, and
    each replica has its own moving means. The mean over all replicas is what is measured and
    saved.

    Args:
      strategy: spans the replicas; every worker calls this.
      variables: variables of a model under the strategy; only floats are changed.
    """
    floats = [each for each in variables if "float" in each.dtype]
    if strategy.num_replicas_in_sync == 1 or not floats:
        return
    own = [
        np.mean([np.asarray(part) for part in _replicas(strategy, each)], axis=0) for each in floats
    ]
    for variable, total in zip(floats, _summed(strategy, own), strict=True):
        variable.assign(total / _num_workers(strategy))


def snapshot(strategy: tf.distribute.Strategy, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that variables have now, as tensors on this worker's first device.

    Nothing is copied until a step changes a variable, and then on the device.
    """
    return {name: tf.identity(_replicas(strategy, each)[0]) for name, each in variables.items()}


def weigh_batch_norms(
    strategy: tf.distribute.Strategy, model: keras.Model, *, synchronized: bool
) -> None:
    """Make a model's batch norms ignore padding, and use the moments of the global batch if asked.

    Call it before the model's step is traced. The step names the weights of its examples with
    `norms_weighted_by`. The saved model is the same with and without.

    Keras's own `synchronized=True` works, but does three all-reduces per norm, each a round trip
    between workers: a step of the tiny preset's head took 1.97 times as long in two processes as
    without, against 1.47 times with one all-reduce here. It also loses digits if a mean is large.

    Args:
      strategy: strategy under whose scope `model` was made.
      model: model with batch norms; those in nested models count.
      synchronized: whether the moments are those of all replicas; otherwise each replica uses those
        of its own examples, and those of its padding if it has no other.
    """
    synchronized = synchronized and strategy.num_replicas_in_sync > 1
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            # Keras calls this method in every training step, in float32 at any precision.
            layer._moments = partial(_weighted_moments, layer, synchronized)


@contextmanager
def norms_weighted_by(weights: Any) -> Iterator[None]:
    """Set the weights [b] of the examples that batch norms see in the block, in this thread."""
    _traced.weights = weights
    try:
        yield
    finally:
        _traced.weights = None


def record_products(model: keras.Model) -> None:
    """Make the dense layers of a model record their products; call it before a step is traced."""
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.Dense:
            layer.call = partial(_recorded_call, layer)


@contextmanager
def recorded_products(num_replicas: int) -> Iterator[list[Product]]:
    """Yield a list, which has after the block the products whose factors are to be gathered.

    Each is the only product with its kernel, and its factors for the global batch have fewer
    numbers than the kernel.
    """
    _traced.products = found = list[Product]()
    try:
        yield found
    finally:
        _traced.products = None
    uses = Counter(id(each.kernel) for each in found)
    found[:] = [
        each
        for each in found
        if uses[id(each.kernel)] == 1 and _has_small_factors(each, num_replicas)
    ]


def _has_small_factors(product: Product, num_replicas: int) -> bool:
    """Return whether the factors have fewer numbers than the gradient of the kernel."""
    (num_inputs, num_outputs), num_examples = product.kernel.shape, product.inputs.shape[0]
    if num_replicas == 1 or num_examples is None or len(product.inputs.shape) != 2:
        return False
    size = num_inputs * num_outputs
    is_large = size * tf.as_dtype(product.kernel.dtype).size >= LEAST_FACTORED_BYTES
    return is_large and num_replicas * num_examples * (num_inputs + num_outputs) < size


def _recorded_call(layer: Any, inputs: Any, training: bool | None = None) -> Any:
    """Do what `keras.layers.Dense.call` does, and record the product."""
    outputs = keras.ops.matmul(inputs, layer.kernel)
    if _traced.products is not None:
        _traced.products.append(Product(layer.kernel, inputs, outputs))
    if layer.bias is not None:
        outputs = keras.ops.add(outputs, layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def summed_gradients(
    gradients: Sequence[Any],
    inputs: Sequence[Any],
    of_outputs: Sequence[tuple[int, Any]],
    precision: str,
) -> tuple[list[Any], list[Any]]:
    """Return gradients summed over all replicas; each of them calls this.

    The gradient of a dense layer's kernel is the product of its inputs and of the gradient of its
    outputs, over all examples. For a large kernel and a small batch, these factors are far smaller:
    of the head of MJ-LAT, 79 of 87 MB become 0.8 MB per replica of 8 examples. So every replica
    gathers them and multiplies. Replicas on devices of one kind get the same bits.

    Args:
      gradients: of most variables.
      inputs: [b, i] of dense layers, each once.
      of_outputs: for each dense layer the position of its inputs, and the gradient [b, o] of the
        loss with respect to its outputs, of one type with the inputs.
      precision: number format in which `gradients` are sent.

    Returns:
      The sums of `gradients`, and the gradient [i, o] of each dense layer's kernel.
    """
    context = _context()
    sent = [tf.cast(each, precision) for each in gradients]
    sums = [
        tf.cast(each, gradient.dtype)
        for each, gradient in zip(context.all_reduce(_SUM, sent), gradients, strict=True)
    ]
    if not of_outputs:
        return sums, []
    # One tensor, because each gather takes two round trips.
    parts = [*inputs, *(gradient for _, gradient in of_outputs)]
    widths = [part.shape[1] for part in parts]
    gathered = tf.split(context.all_gather(tf.concat(parts, axis=1), axis=0), widths, axis=1)
    kernels = [
        tf.matmul(gathered[place], gradient, transpose_a=True)
        for (place, _), gradient in zip(of_outputs, gathered[len(inputs) :], strict=True)
    ]
    return sums, kernels


def _weighted_moments(
    norm: Any, synchronized: bool, inputs: Any, mask: Any = None
) -> tuple[Any, Any]:
    """Compute mean and variance [C] of inputs [b, ..., C]; gradients reach all replicas."""
    assert mask is None, "no layer of the models has a mask"
    weights = _traced.weights
    if weights is None:
        weights = tf.ones(tf.shape(inputs)[:1])
    # Relative to the moving mean, which is the same everywhere: otherwise the difference of squares
    # below loses the digits that a mean far from zero takes up. Any origin gives the same moments.
    origin = tf.convert_to_tensor(norm.moving_mean.value)
    shifted = inputs - origin
    places = list(range(1, len(inputs.shape) - 1))
    # Of each example first: weighing every value would take another pass over the inputs.
    sums = [tf.reduce_sum(shifted, places), tf.reduce_sum(tf.square(shifted), places)]
    each = tf.cast(tf.size(inputs) / (tf.size(weights) * tf.size(origin)), inputs.dtype)
    if not synchronized:
        weights = tf.where(tf.reduce_any(weights > 0), weights, tf.ones_like(weights))
    total = tf.linalg.matvec(
        tf.stack([*sums, tf.fill(tf.shape(sums[0]), each)]), weights, transpose_a=True
    )
    if synchronized:
        # One tensor: between workers each all-reduce costs a round trip, whatever its size.
        total = _context().all_reduce(_SUM, total)
    mean, square = total[0] / total[2], total[1] / total[2]
    return origin + mean, tf.maximum(square - tf.square(mean), 0.0)


def _replicas(strategy: tf.distribute.Strategy, variable: Any) -> Sequence[Any]:
    return strategy.experimental_local_results(variable.value)


def _num_workers(strategy: tf.distribute.Strategy) -> int:
    """Return the number of processes that a strategy spans."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    return len(strategy.cluster_resolver.cluster_spec().as_dict()["worker"])


def _summed(strategy: tf.distribute.Strategy, arrays: Sequence[Any]) -> list[np.ndarray]:
    """Return the sum of each array over the workers; all of them call this."""
    arrays = [np.asarray(each) for each in arrays]
    if _num_workers(strategy) == 1:
        return arrays
    shapes = tuple((each.shape, each.dtype.str) for each in arrays)
    sums = _adder(strategy, shapes)([tf.constant(each) for each in arrays])
    return [strategy.experimental_local_results(each)[0].numpy() for each in sums]


@cache  # building a graph takes far longer than an all-reduce
def _adder(strategy: tf.distribute.Strategy, _shapes: tuple[Any, ...]) -> Callable[..., Any]:
    """Return a function that sums arrays of these shapes and types over the workers."""
    num_devices = strategy.num_replicas_in_sync // _num_workers(strategy)

    def replica(arrays: list[Any]) -> list[Any]:
        # Of the devices of a worker, only the first one contributes.
        is_first = tf.equal(_context().replica_id_in_sync_group % num_devices, 0)
        kept = [tf.where(is_first, each, tf.zeros_like(each)) for each in arrays]
        return _context().all_reduce(_SUM, kept)

    return tf.function(lambda arrays: strategy.run(replica, args=(arrays,)), autograph=False)


def _context() -> Any:
    return tf.distribute.get_replica_context()
