"""Operations that all workers of a run do together: barriers, broadcasts, shared moments."""

import hashlib
import platform
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.errors import UserError
from laser_dist.storage.run_files import RunFiles

_SUM = tf.distribute.ReduceOp.SUM


class _Weights(threading.local):
    """Weights of the examples that batch norms see now; a replica is traced in its own thread."""

    of_batch: Any = None


_weights = _Weights()


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
    _weights.of_batch = weights
    try:
        yield
    finally:
        _weights.of_batch = None


def _weighted_moments(
    norm: Any, synchronized: bool, inputs: Any, mask: Any = None
) -> tuple[Any, Any]:
    """Compute mean and variance [C] of inputs [b, ..., C]; gradients reach all replicas."""
    assert mask is None, "no layer of the models has a mask"
    weights = _weights.of_batch
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
