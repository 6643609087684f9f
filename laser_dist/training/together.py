"""What all workers of a run do at one time: wait for each other, take over the chief's values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_SUM = tf.distribute.ReduceOp.SUM


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when every worker has come here."""

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


def share_statistics(strategy: tf.distribute.Strategy, variables: Sequence[Any]) -> None:
    """Gives all replicas the mean of what each has of a variable.

    Batch norms take the moments of their replica's part of a batch, and each keeps moving means of
    its own. What is measured, saved and gone on from is the mean over all.

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


def _replicas(strategy: tf.distribute.Strategy, variable: Any) -> Sequence[Any]:
    return strategy.experimental_local_results(variable.value)


def _context() -> Any:
    return tf.distribute.get_replica_context()
