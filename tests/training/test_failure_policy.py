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
    kind_of,
)

pytestmark = pytest.mark.slow

PEER_LOST = tf.errors.UnavailableError(None, None, "Graph execution error: all_reduce")
OUT_OF_MEMORY = WorkerHealthCheckFailedError("poll failed", OutOfMemoryError("15 of 16 GB"))


CUDNN = tf.errors.InternalError(None, None, "CUDNN_STATUS_EXECUTION_FAILED")
DEVICE_FULL = tf.errors.ResourceExhaustedError(
    None, None, "OOM when allocating tensor on /job:worker/replica:0/task:1/device:GPU:3 by"
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), "lost worker"),
        (PEER_LOST, "passing"),
        (tf.errors.AbortedError(None, None, "peer is gone"), "passing"),
        (tf.errors.CancelledError(None, None, "RPC: cancelled"), "passing"),
        (ConnectionResetError(104, "Connection reset by peer"), "passing"),
        (OSError(5, "Input/output error"), "passing"),
        (OUT_OF_MEMORY, "unclear"),
        (CUDNN, "unclear"),
        (tf.errors.UnknownError(None, None, "NCCL: unhandled system error"), "unclear"),
        (DEVICE_FULL, "fatal"),
        (NameError("name 'x' is not defined"), "unclear"),
        (FloatingPointError("Stage image, epoch 1, step 3: the loss is nan."), "fatal"),
        (UserError("Wrong.", hint="Correct it."), "fatal"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_the_kind_of_an_error_follows_from_its_type(error, kind):
    assert kind_of(error) == kind


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, OutOfMemoryError("15 of 16 GB")])
def test_out_of_memory_is_recognized_by_its_type(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ActorDiedError())
    assert not is_out_of_memory(None)


@pytest.fixture
def policy(tmp_path):
    return FailurePolicy([(RunFiles(str(tmp_path)), ("image", "jnd1"))])


def add_checkpoint(folder, epoch):
    checkpoint = folder / "checkpoints" / "jnd1" / f"epoch-00{epoch}.npz"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.touch()


def test_a_user_error_stops_the_training_at_once(policy):
    error = UserError("Wrong.", hint="Correct it.")
    assert policy.fatal_error([PEER_LOST]) is None
    assert policy.fatal_error([PEER_LOST, ActorDiedError(), error]) is error


def test_a_device_that_is_full_stops_the_training_at_once(policy):
    error = policy.fatal_error([PEER_LOST, DEVICE_FULL])
    assert isinstance(error, UserError)
    assert error.message == "GPU:3 of a worker has too little memory."


@pytest.mark.parametrize("error", [CUDNN, NameError("name 'x' is not defined")])
def test_any_other_error_stops_the_training_if_it_recurs_without_a_checkpoint(
    policy, tmp_path, error
):
    assert policy.fatal_error([error]) is None
    add_checkpoint(tmp_path, 1)
    assert policy.fatal_error([error, PEER_LOST]) is None
    assert policy.fatal_error([PEER_LOST]) is None
    assert policy.fatal_error([PEER_LOST, error]) is error


def test_what_the_others_raise_when_a_worker_is_lost_never_stops_the_training(policy):
    assert [policy.fatal_error([CUDNN, ActorDiedError()]) for _ in range(5)] == [None] * 5


def test_lost_workers_never_stop_the_training(policy):
    assert [policy.fatal_error([ActorDiedError()]) for _ in range(5)] == [None] * 5


def test_out_of_memory_stops_the_training_if_it_recurs_without_a_new_checkpoint(policy, tmp_path):
    assert policy.fatal_error([PEER_LOST, OUT_OF_MEMORY]) is None
    add_checkpoint(tmp_path, 1)
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
