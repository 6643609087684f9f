"""What all workers of a run do at one time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from chief_of_two import arrays_of
from ports import free_ports

from laser_dist.training.learning.collectives import broadcast_from_chief, wait_for_all

SCRIPT = Path(__file__).with_name("chief_of_two.py")


@pytest.mark.slow
def test_both_workers_end_with_the_arrays_of_the_chief_bit_for_bit(tmp_path):
    ports = [str(port) for port in free_ports(2)]
    files = [tmp_path / f"{index}.npz" for index in (0, 1)]
    workers = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(index), *ports, str(files[index])],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        told = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], told
    for path in files:
        with np.load(path) as agreed:
            assert agreed["mean"] == [0.5]
            names = [name for name in agreed.files if name != "mean"]
            for name, expected in zip(names, arrays_of(0), strict=True):
                np.testing.assert_array_equal(agreed[name], expected)
                assert agreed[name].dtype == expected.dtype


def test_alone_a_worker_keeps_its_arrays():
    strategy = tf.distribute.get_strategy()
    wait_for_all(strategy)
    for kept, brought in zip(
        broadcast_from_chief(strategy, arrays_of(1)), arrays_of(1), strict=True
    ):
        np.testing.assert_array_equal(kept, brought)
