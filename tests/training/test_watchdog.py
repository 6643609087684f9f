import logging
import threading

import pytest

from laser_dist.training.learning.watchdog import EXIT_STATUS, Watchdog


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_worker_without_heartbeats_stops_and_logs_its_activity(clock, caplog):
    statuses = []
    dog = Watchdog(60, statuses.append, clock)
    for step in range(10):  # longer than the timeout in total
        dog.heartbeat(f"step {step}")
        clock.now += 59
        assert not dog.check()
    clock.now += 2
    with caplog.at_level(logging.ERROR):
        assert dog.check()
    assert statuses == [EXIT_STATUS]
    assert caplog.messages == ["A worker made no progress for 61 s (step 9); all restart."]


def test_suspended_time_does_not_count(clock):
    statuses = []
    dog = Watchdog(60, statuses.append, clock)
    with dog.suspended(), dog.suspended():
        clock.now += 1000
        assert not dog.check()
    clock.now += 59
    assert not dog.check()
    clock.now += 2
    assert dog.check()


def test_the_process_is_watched_only_within_the_block(clock):
    stopped = threading.Event()
    dog = Watchdog(0.1, lambda _: stopped.set(), clock)
    with dog.watching():
        clock.now += 1
        assert stopped.wait(60)
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())
