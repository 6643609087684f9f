"""Memory that this process may use."""

import platform
import subprocess
import sys

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


FAULTS = """
import resource
import numpy as np
from laser_dist.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(1 << 21)  # 16 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such setting")
def test_kept_memory_is_not_cleared_again_by_the_system():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True
    )
    before, after = map(int, done.stdout.split())
    assert after < before / 10
