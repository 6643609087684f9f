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


@pytest.fixture
def begun(tmp_path):
    """A training in its second stage, whose chief was ended while it wrote a line of its log."""
    log = RunLog(RunStore(str(tmp_path)), is_chief=True, name="image")
    for stage, batch_size in (("image", 8), ("jnd1", 6)):
        settings = stage.rstrip("1")
        log.event("stage", stage=stage, settings=settings, batch_size=batch_size, replicas=4)
        log.event("step", stage=stage)
        if stage == "image":
            log.event("done", stage=stage)
    with (tmp_path / "logs" / "events" / "image.jsonl").open("a") as file:
        file.write('{"kind": "ste')
    return log


@pytest.mark.usefixtures("begun")
def test_a_machine_that_is_full_again_ends_the_run_with_what_to_lower(judge, tmp_path):
    left = tf.errors.UnavailableError(None, None, "Graph execution error: all_reduce")
    assert judge.fault([left, FULL]) is None
    checkpoint = tmp_path / "checkpoints" / "jnd1" / "epoch-001.npz"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
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
    assert str(judge.told(FULL)).startswith(told)
    assert judge.told(ActorDiedError()) is None


def test_between_two_stages_no_stage_is_blamed(judge, begun, tmp_path):
    RunLog(RunStore(str(tmp_path)), is_chief=True, name="image").event("done", stage="jnd1")
    told = "Memory of the machine 10.0.0.7: expected room for the workers"
    assert str(judge.told(FULL)).startswith(told)


def test_a_store_that_fails_just_then_does_not_end_the_run(judge, begun, monkeypatch):
    def failing(*_):
        raise OSError("not now")

    monkeypatch.setattr(RunStore, "content", failing)
    assert [judge.fault([FULL]) for _ in range(3)] == [None] * 3
    assert "room for the workers" in str(judge.told(FULL))


def test_a_machine_that_is_full_before_any_stage_is_named(judge):
    judge.fault([FULL])
    told = "Memory of the machine 10.0.0.7: expected room for the workers, got 15.21GB used"
    assert str(judge.fault([FULL])).startswith(told)
