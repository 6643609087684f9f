import errno

import pytest

from laser_dist.training.storage.retrying import PAUSES_S, retrying


def failing(times, error):
    """Work that fails so often, and counts its tries."""
    tries = []

    def work():
        tries.append(1)
        if len(tries) <= times:
            raise error
        return "done"

    return work, tries


@pytest.mark.parametrize("times", [0, 1, len(PAUSES_S)])
def test_pauses_grow_until_it_succeeds(times):
    slept = []
    work, tries = failing(times, ConnectionError("reset"))
    assert retrying(work, sleep=slept.append) == "done"
    assert slept == list(PAUSES_S[:times])
    assert slept == sorted(slept)
    assert len(tries) == times + 1


def test_it_gives_up_with_the_last_error():
    slept = []
    work, tries = failing(99, TimeoutError("too slow"))
    with pytest.raises(TimeoutError, match="too slow"):
        retrying(work, sleep=slept.append)
    assert len(tries) == len(PAUSES_S) + 1
    assert sum(slept) > 240


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOENT])
def test_what_waiting_does_not_mend_is_raised_at_once(number):
    work, tries = failing(1, OSError(number, "no"))
    with pytest.raises(OSError, match="no"):
        retrying(work, sleep=lambda _: pytest.fail("waited"))
    assert len(tries) == 1


def test_other_errors_are_not_its_business():
    work, tries = failing(1, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        retrying(work)
    assert len(tries) == 1
