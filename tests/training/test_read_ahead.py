import threading

import pytest

from laser_dist.examples import read_ahead
from laser_dist.examples.read_ahead import ReadAhead


def test_items_come_in_order():
    assert list(ReadAhead(range(50))) == list(range(50))
    assert list(ReadAhead([])) == []


def test_an_error_of_the_iterable_is_raised_after_the_items_before_it():
    def items():
        yield 1
        raise KeyError("x")

    walk = iter(ReadAhead(items()))
    assert next(walk) == 1
    with pytest.raises(KeyError):
        next(walk)


def test_closing_stops_the_thread():
    walk = iter(ReadAhead(iter(int, 1)))  # infinite
    next(walk)
    walk.close()
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_two_items_are_read_ahead():
    read, fourth_is_read = [], threading.Event()

    def items():
        for item in range(9):
            read.append(item)
            if item == 3:
                fourth_is_read.set()
            yield item

    walk = iter(ReadAhead(items()))
    assert next(walk) == 0
    # One item is consumed, two are in the queue, and the thread holds one more.
    assert fourth_is_read.wait(60)
    walk.close()
    assert read == [0, 1, 2, 3]


def test_the_time_spent_waiting_is_measured(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(read_ahead.time, "monotonic", lambda: Clock.now)

    class SlowQueue(read_ahead.Queue):
        def get(self, *arguments, **options):
            Clock.now += 2.0
            return super().get(*arguments, **options)

    monkeypatch.setattr(read_ahead, "Queue", SlowQueue)
    ahead = ReadAhead(range(3))
    for _ in ahead:
        Clock.now += 100.0  # the step does not count
    assert ahead.waited_s == 8.0  # for three items and the end
