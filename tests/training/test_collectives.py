"""Collective operations of all workers."""

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
def test_both_workers_receive_the_arrays_of_the_chief_bit_for_bit(tmp_path):
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
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], errors
    for path in files:
        with np.load(path) as received:
            assert received["mean"] == [0.5]
            names = [name for name in received.files if name != "mean"]
            for name, expected in zip(names, arrays_of(0), strict=True):
                np.testing.assert_array_equal(received[name], expected)
                assert received[name].dtype == expected.dtype


def test_a_single_worker_receives_its_own_arrays():
    strategy = tf.distribute.get_strategy()
    wait_for_all(strategy)
    for received, array in zip(
        broadcast_from_chief(strategy, arrays_of(1)), arrays_of(1), strict=True
    ):
        np.testing.assert_array_equal(received, array)
