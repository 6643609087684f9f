"""What the training makes of its workers' errors."""

import pytest
import tensorflow as tf
from ray.exceptions import ActorDiedError

from laser_dist.errors import UserError
from laser_dist.training.ray_entry import may_come_of_a_lost_worker


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError(None, None, "Graph execution error: all_reduce"),
        tf.errors.AbortedError(None, None, "peer is gone"),
        tf.errors.CancelledError(None, None, "RPC: cancelled"),
        ActorDiedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_a_lost_worker_leaves_lead_to_another_try(error):
    assert may_come_of_a_lost_worker(error)


@pytest.mark.parametrize(
    "error",
    [
        NameError("name 'x' is not defined"),
        FloatingPointError("Stage image, epoch 1, step 3: expected a finite loss, got nan."),
        OSError(28, "No space left on device"),
        UserError("Setting x", "1", "2", "Correct it."),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_faults_that_would_only_come_again_end_the_run(error):
    assert not may_come_of_a_lost_worker(error)
