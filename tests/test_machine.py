"""Memory that this process may use."""

import psutil
import pytest

from laser_dist.machine import free_memory


def test_the_free_memory_is_that_of_the_container(tmp_path):
    machine = psutil.virtual_memory().available
    assert free_memory(tmp_path) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.stat").write_text("anon 700000\nfile 9000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert free_memory(tmp_path) == 300000
