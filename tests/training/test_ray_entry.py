"""What the training makes of its workers' errors."""

import pytest

from laser_dist.training.ray_entry import may_come_of_a_lost_worker

TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 1, in work
    train()
{}
"""


@pytest.mark.parametrize(
    "last",
    [
        "tensorflow.python.framework.errors_impl.UnavailableError: Graph execution error:\n\n"
        "Detected at node all_reduce\n"
        "  trace",
        "tensorflow.python.framework.errors_impl.AbortedError: peer is gone",
        "tensorflow.python.framework.errors_impl.CancelledError: [_Derived_] RPC: cancelled",
    ],
)
def test_errors_of_the_workers_that_are_left_lead_to_another_try(last):
    assert may_come_of_a_lost_worker(TRACEBACK.format(last))


def test_a_worker_that_died_leads_to_another_try():
    assert may_come_of_a_lost_worker("The actor died unexpectedly before finishing this task.")


@pytest.mark.parametrize(
    "last",
    [
        "NameError: name 'x' is not defined",
        "FloatingPointError: Stage image, epoch 1, step 3: expected a finite loss, got nan.",
        "OSError: [Errno 28] No space left on device: 'run/models'",
        "laser_dist.errors.UserError: Setting x: expected 1, got 2. Correct it.",
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating",
    ],
)
def test_faults_that_would_only_come_again_end_the_run(last):
    assert not may_come_of_a_lost_worker(TRACEBACK.format(last))
