"""What all workers of a run do at one time: wait, take over the chief's values, share moments."""

import platform
import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from laser_dist.errors import UserError
from laser_dist.training.storage.run_store import RunStore

_SUM = tf.distribute.ReduceOp.SUM


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when every worker has come here."""
    if strategy.num_replicas_in_sync == 1:
        return

    @tf.function
    def meet() -> Any:
        return strategy.run(lambda: _context().all_reduce(_SUM, tf.ones([])))

    meet()


def chiefs_values(
    strategy: tf.distribute.Strategy, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The chief's arrays, on every worker, bit for bit.

    What is computed from the same input on machines of different kinds may differ in the last bits.

    Args:
      strategy: that spans the workers; all of them call this.
      arrays: finite, of the same shapes and types on every worker.
    """
    constants = [tf.constant(array) for array in arrays]

    @tf.function
    def take_over() -> Any:
        def replica() -> list[Any]:
            is_first = tf.equal(_context().replica_id_in_sync_group, 0)
            kept = [tf.where(is_first, each, tf.zeros_like(each)) for each in constants]
            return _context().all_reduce(_SUM, kept)

        return strategy.run(replica)

    return [strategy.experimental_local_results(each)[0].numpy() for each in take_over()]


def all_agree(strategy: tf.distribute.Strategy, holds: bool) -> bool:
    """Whether something holds for every worker: each gets the same answer.

    Of what lies in a shared folder one machine may know before another one does.
    """
    if strategy.num_replicas_in_sync == 1:
        return holds

    @tf.function
    def count() -> Any:
        own = 1.0 if holds else 0.0
        return strategy.run(lambda: _context().all_reduce(_SUM, tf.identity(tf.constant(own))))

    total = strategy.experimental_local_results(count())[0].numpy()
    return round(float(total)) == strategy.num_replicas_in_sync


def seconds_to_sum(strategy: tf.distribute.Strategy, count: int, tries: int = 5) -> float:
    """What it takes to sum so many float32 numbers over all replicas, where none waits.

    Args:
      strategy: that spans the replicas; every worker calls this.
      count: of numbers, such as those of a gradient.
      tries: of which the fastest counts.
    """
    if strategy.num_replicas_in_sync == 1:
        return 0.0

    @tf.function
    def add_up() -> Any:
        return strategy.run(lambda: tf.reduce_sum(_context().all_reduce(_SUM, tf.ones([count]))))

    add_up()
    times: list[float] = []
    for _ in range(tries):
        wait_for_all(strategy)
        started = time.monotonic()
        strategy.experimental_local_results(add_up())[0].numpy()
        times.append(time.monotonic() - started)
    return min(times)


def check_shared(strategy: tf.distribute.Strategy, store: RunStore, *, is_chief: bool) -> None:
    """Refuses a run's folder that is not the same one on all machines.

    Args:
      strategy: that spans the workers; all of them call this.
      store: of the run.
      is_chief: whether this worker is the first one.

    Raises:
      UserError: a worker does not find what the chief has written.
    """
    name = chiefs_values(strategy, [np.frombuffer(uuid.uuid4().bytes, np.uint8).astype(np.float32)])
    mark = store.local / f".shared-{name[0].astype(np.uint8).tobytes().hex()}"
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
        raise UserError(
            f"Run's place {store.place}",
            "a folder that all machines of the cluster share",
            "one that each has for itself" if found else f"nothing of it on {platform.node()}",
            "Name a bucket (--storage s3://…, gs://…), or a folder on a shared disk.",
        )


def share_statistics(strategy: tf.distribute.Strategy, variables: Sequence[Any]) -> None:
    """Gives all replicas the mean of what each has of a variable.

    Batch norms that are not synchronized take the moments of their replica's part of a batch, and
    each keeps moving means of its own. What is measured, saved and gone on from is the mean over
    all.

    Args:
      strategy: that spans the replicas; every worker calls this.
      variables: of a model under the strategy; those that are no floats are left alone.
    """
    total = strategy.num_replicas_in_sync
    floats = [each for each in variables if "float" in each.dtype]
    if total == 1 or not floats:
        return
    # Of this worker's replicas the mean, which each of them brings along.
    own = [
        tf.constant(np.mean([np.asarray(part) for part in _replicas(strategy, each)], axis=0))
        for each in floats
    ]

    @tf.function
    def add_up() -> Any:
        # Made anew in each replica: one tensor that all of them capture is not summed.
        return strategy.run(lambda: _context().all_reduce(_SUM, [tf.identity(x) for x in own]))

    for variable, summed in zip(floats, add_up(), strict=True):
        variable.assign(strategy.experimental_local_results(summed)[0].numpy() / total)


def synchronize_norms(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Lets a model's batch norms take the moments of the global batch, over all replicas.

    To be called before the model's step is traced. With one replica nothing changes, not a bit.
    What the model saves of itself is the same with and without.

    Keras's own `synchronized=True` does not fail, but sums three times a norm, each a round trip
    between workers: a step of the demo's head took 1.97 times as long in two processes as without,
    against 1.47 times with the one sum here. It also loses digits where a mean is large.

    Args:
      strategy: under whose scope `model` was made.
      model: norms of models nested in it count.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            # Keras asks this method at every call in training, in float32 whatever the precision.
            layer._moments = partial(_global_moments, layer)


def _global_moments(norm: Any, inputs: Any, mask: Any = None) -> tuple[Any, Any]:
    """Mean and variance [C] of all replicas' inputs [b, ..., C]; a gradient goes back to all."""
    assert mask is None, "no layer of ours masks"
    axes = list(range(len(inputs.shape) - 1))
    # From the moving mean, which is the same everywhere: the difference of squares below would
    # lose the digits that a mean far from zero takes up. For the moments any origin would do.
    origin = tf.convert_to_tensor(norm.moving_mean.value)
    shifted = inputs - origin
    sums = [tf.reduce_sum(shifted, axes), tf.reduce_sum(tf.square(shifted), axes)]
    count = tf.fill(tf.shape(origin), tf.cast(tf.size(inputs) / tf.size(origin), inputs.dtype))
    # One tensor: between workers each reduction costs a round trip, whatever its size.
    total = _context().all_reduce(_SUM, tf.stack([*sums, count]))
    mean, square = total[0] / total[2], total[1] / total[2]
    return origin + mean, tf.maximum(square - tf.square(mean), 0.0)


def _replicas(strategy: tf.distribute.Strategy, variable: Any) -> Sequence[Any]:
    return strategy.experimental_local_results(variable.value)


def _context() -> Any:
    return tf.distribute.get_replica_context()
