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

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("chief_of_two.py")


@pytest.fixture(scope="module")
def received(tmp_path_factory):
    """Return the arrays that each of two workers ends with, by name."""
    folder = tmp_path_factory.mktemp("workers")
    ports = [str(port) for port in free_ports(2)]
    files = [folder / f"{index}.npz" for index in (0, 1)]
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
    return [dict(np.load(path)) for path in files]


def test_both_workers_receive_the_arrays_of_the_chief_bit_for_bit(received):
    for arrays in received:
        for number, expected in enumerate(arrays_of(0)):
            np.testing.assert_array_equal(arrays[f"arr_{number}"], expected)
            assert arrays[f"arr_{number}"].dtype == expected.dtype


def test_statistics_are_averaged_over_the_workers(received):
    assert [arrays["mean"] for arrays in received] == [[0.5], [0.5]]


def test_every_worker_refuses_to_train_with_devices_of_different_models(received):
    for index, arrays in enumerate(received):
        (refusal,) = arrays["refusals"]
        assert refusal.startswith("The workers have different devices;")
        assert refusal.endswith(f"has NVIDIA {'AB'[index]}.")


def test_all_workers_save_after_the_same_steps_when_only_the_clock_of_the_chief_says_so(received):
    """Three epochs have twelve steps."""
    chief, other = (arrays["saves"].tolist() for arrays in received)
    assert chief == other
    assert 1 < len(chief) < 12
    assert any(steps for _, steps in chief)


def test_a_single_worker_receives_its_own_arrays():
    strategy = tf.distribute.get_strategy()
    wait_for_all(strategy)
    for received, array in zip(
        broadcast_from_chief(strategy, arrays_of(1)), arrays_of(1), strict=True
    ):
        np.testing.assert_array_equal(received, array)
