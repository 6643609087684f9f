import pytest

from laser_dist.training.learning import pace
from laser_dist.training.learning.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(pace.time, "monotonic", lambda: Clock.now)
    return Clock


def test_shares_of_an_epochs_time_add_up(clock):
    taken = Pace(checkpoint_s=1.0)
    for _ in range(4):
        clock.now += 2.0
        taken.step(6)
    with taken.timing("checkpoint"):
        clock.now += 1.0
    taken.wait("input", 2.0)
    taken.stop()
    clock.now += 10.0  # validation
    figures = taken.figures(num_workers=2, sum_s=0.25)
    assert figures == pytest.approx(
        {
            "samples_per_second": 24 / 10 / 2,
            "input_wait": 0.2,
            "all_reduce": 0.1,
            "checkpoint": 0.2,
            "compute": 0.5,
            "training_seconds": 10.0,
            "seconds": 20.0,
        }
    )


def test_an_estimate_that_is_too_high_leaves_nothing_below_zero(clock):
    taken = Pace()
    clock.now += 1.0
    taken.step(1)
    taken.stop()
    assert taken.figures(num_workers=1, sum_s=9.0)["compute"] == 0.0
