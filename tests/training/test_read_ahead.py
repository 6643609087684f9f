import threading
import time

import pytest

from laser_dist.training.examples.read_ahead import ReadAhead


def test_items_come_in_order_and_an_empty_walk_ends():
    assert list(ReadAhead(range(50))) == list(range(50))
    assert list(ReadAhead([])) == []


def test_an_error_of_the_iterable_is_raised_after_what_came_before_it():
    def items():
        yield 1
        raise KeyError("x")

    seen = []
    with pytest.raises(KeyError):
        seen.extend(ReadAhead(items()))
    assert seen == [] or seen == [1]
    walk = iter(ReadAhead(items()))
    assert next(walk) == 1
    with pytest.raises(KeyError):
        next(walk)


def test_giving_up_ends_the_thread():
    walk = iter(ReadAhead(iter(int, 1)))  # without end
    next(walk)
    walk.close()
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_the_time_that_is_waited_is_told():
    def slow():
        for item in range(3):
            time.sleep(0.1)
            yield item

    ahead = ReadAhead(slow())
    for _ in ahead:
        pass
    assert 0.2 < ahead.waited_s < 5
    quick = ReadAhead(range(3))
    for _ in quick:
        time.sleep(0.1)
    assert quick.waited_s < 0.2
