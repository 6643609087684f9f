import pytest

from laser_dist.training.learning import throughput
from laser_dist.training.learning.throughput import EpochTimer


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(throughput.time, "monotonic", lambda: Clock.now)
    return Clock


def test_shares_of_an_epochs_time_add_up(clock):
    timer = EpochTimer(checkpoint_s=1.0)
    for _ in range(4):
        clock.now += 2.0
        timer.add_examples(6)
    with timer.checkpoint():
        clock.now += 1.0
    timer.add_input_wait(2.0)
    timer.stop_training()
    clock.now += 10.0  # validation
    assert timer.metrics(num_workers=2) == pytest.approx(
        {
            "samples_per_second": 24 / 10 / 2,
            "input_wait": 0.2,
            "checkpoint": 0.2,
            "compute": 0.6,
            "training_seconds": 10.0,
            "seconds": 20.0,
        }
    )


def test_compute_is_never_negative(clock):
    timer = EpochTimer()
    clock.now += 1.0
    timer.add_input_wait(9.0)
    timer.stop_training()
    assert timer.metrics(num_workers=1)["compute"] == 0.0
