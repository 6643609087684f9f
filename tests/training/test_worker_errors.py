"""What the training makes of its workers' errors."""

import pytest
import tensorflow as tf
from ray.exceptions import ActorDiedError, OutOfMemoryError

from laser_dist.errors import UserError
from laser_dist.training.storage.logs import RunLog
from laser_dist.training.storage.run_store import RunStore
from laser_dist.training.worker_errors import Judge, may_come_of_a_lost_worker

FULL = OutOfMemoryError(
    "Memory on the node (IP: 10.0.0.7, ID: 0a1b) was 15.21GB used / 16.00GB limit (0.950625), "
    "which exceeds the memory usage threshold of 0.95."
)


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


@pytest.fixture
def judge(tmp_path):
    return Judge(str(tmp_path), ("image", "jnd1"))


def test_a_fault_ends_the_run_also_beside_what_it_has_left_in_others(judge):
    fault = NameError("name 'x' is not defined")
    left = tf.errors.UnavailableError(None, None, "Graph execution error: all_reduce")
    assert judge.fault([left]) is None
    assert judge.fault([left, fault]) is fault


def test_lost_workers_never_end_the_run(judge):
    assert [judge.fault([ActorDiedError()]) for _ in range(5)] == [None] * 5


def test_a_machine_that_is_full_again_ends_the_run_with_what_to_lower(judge, tmp_path):
    store = RunStore(str(tmp_path))
    log = RunLog(store, is_chief=True, name="image")
    for stage, batch_size in (("image", 8), ("jnd1", 6)):
        settings = stage.rstrip("1")
        log.event("stage", stage=stage, settings=settings, batch_size=batch_size, replicas=4)
        log.event("step", stage=stage)
    with (tmp_path / "logs" / "events" / "image.jsonl").open("a") as file:
        file.write('{"kind": "ste')  # of a worker that was ended while it wrote
    left = tf.errors.UnavailableError(None, None, "Graph execution error: all_reduce")
    assert judge.fault([left, FULL]) is None
    RunLog(store, is_chief=True, name="image").event("epoch", stage="jnd1")
    assert judge.fault([left, FULL]) is None  # it has come further since
    assert judge.fault([ActorDiedError()]) is None
    assert str(judge.fault([left, FULL])) == (
        "Memory of the machine 10.0.0.7, stage jnd1: expected room for a step of 6 examples, 2 on "
        "each device, got 15.21GB used / 16.00GB limit, and that twice. Lower jnd.batch_size, "
        "spread it over more devices or machines, or set precision=bfloat16."
    )


def test_a_machine_so_full_that_ray_ends_the_training_itself_is_named(judge):
    told = (
        "Memory of the machine 10.0.0.7: expected room for the workers, got 15.21GB used / 16.00GB"
    )
    assert str(judge.end(FULL)).startswith(told)
    other = ActorDiedError()
    assert judge.end(other) is other


def test_a_machine_that_is_full_before_any_stage_is_named(judge):
    judge.fault([FULL])
    told = "Memory of the machine 10.0.0.7: expected room for the workers, got 15.21GB used"
    assert str(judge.fault([FULL])).startswith(told)
