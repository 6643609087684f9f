import threading
import time

from laser_dist.training.learning.watchdog import EXIT_STATUS, Watchdog


def test_a_worker_that_gets_nowhere_is_ended_and_says_what_it_was_at():
    told, ended = [], threading.Event()
    statuses = []

    def end(status):
        statuses.append(status)
        ended.set()

    dog = Watchdog(0.4, told.append, end)
    with dog.watching():
        for step in range(10):  # longer than the limit in all
            dog.beat(f"step {step}")
            time.sleep(0.08)
        assert not ended.is_set()
        started = time.monotonic()
        assert ended.wait(10)
        assert time.monotonic() - started > 0.2
    assert statuses == [EXIT_STATUS]
    assert len(told) == 1
    assert "step 9" in told[0]


def test_what_has_ended_is_not_watched():
    ended = []
    dog = Watchdog(0.2, ended.append, ended.append)
    with dog.watching():
        pass
    time.sleep(0.5)
    assert ended == []
