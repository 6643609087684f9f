"""Worker errors that restart the workers, and errors that stop the training."""

import pytest
import tensorflow as tf
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from laser_dist.errors import UserError
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.failure_policy import (
    FailurePolicy,
    is_out_of_memory,
    may_follow_from_a_lost_worker,
)

PEER_LOST = tf.errors.UnavailableError(None, None, "Graph execution error: all_reduce")
OUT_OF_MEMORY = WorkerHealthCheckFailedError("poll failed", OutOfMemoryError("15 of 16 GB"))


@pytest.mark.parametrize(
    "error",
    [
        PEER_LOST,
        tf.errors.AbortedError(None, None, "peer is gone"),
        tf.errors.CancelledError(None, None, "RPC: cancelled"),
        ActorDiedError(),
        OUT_OF_MEMORY,
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_may_follow_from_a_lost_worker(error):
    assert may_follow_from_a_lost_worker(error)


@pytest.mark.parametrize(
    "error",
    [
        NameError("name 'x' is not defined"),
        FloatingPointError("Stage image, epoch 1, step 3: the loss is nan."),
        OSError(28, "No space left on device"),
        UserError("Wrong.", hint="Correct it."),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_would_recur(error):
    assert not may_follow_from_a_lost_worker(error)


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, OutOfMemoryError("15 of 16 GB")])
def test_out_of_memory_is_recognized_by_its_type(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ActorDiedError())
    assert not is_out_of_memory(None)


@pytest.fixture
def policy(tmp_path):
    return FailurePolicy([(RunFiles(str(tmp_path)), ("image", "jnd1"))])


def test_an_error_that_would_recur_stops_the_training(policy):
    error = NameError("name 'x' is not defined")
    assert policy.fatal_error([PEER_LOST]) is None
    assert policy.fatal_error([PEER_LOST, error]) is error


def test_lost_workers_never_stop_the_training(policy):
    assert [policy.fatal_error([ActorDiedError()]) for _ in range(5)] == [None] * 5


def test_out_of_memory_stops_the_training_if_it_recurs_without_a_new_checkpoint(policy, tmp_path):
    assert policy.fatal_error([PEER_LOST, OUT_OF_MEMORY]) is None
    checkpoint = tmp_path / "checkpoints" / "jnd1" / "epoch-001.npz"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert policy.fatal_error([PEER_LOST, OUT_OF_MEMORY]) is None  # there was progress
    assert policy.fatal_error([ActorDiedError()]) is None
    error = policy.fatal_error([PEER_LOST, OUT_OF_MEMORY])
    assert isinstance(error, UserError)
    assert error.message.startswith("A machine ran out of memory")


def test_a_storage_error_does_not_stop_the_training(policy, monkeypatch):
    def fail(*_, **__):
        raise OSError("not now")

    monkeypatch.setattr(RunFiles, "names", fail)
    assert [policy.fatal_error([OUT_OF_MEMORY]) for _ in range(3)] == [None] * 3
