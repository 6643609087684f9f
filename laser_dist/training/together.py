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


def _context() -> Any:
    return tf.distribute.get_replica_context()
