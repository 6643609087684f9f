"""Order of the examples of an epoch, and their division among workers."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.examples.order import (
    WorkerShard,
    epoch_order,
    num_steps,
    shuffled,
    step_rng,
)

counts = st.integers(1, 120)


@st.composite
def divisions(draw):
    """Draw numbers of workers and devices, and a batch size with an example per device."""
    num_workers, devices = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    least = num_workers * devices
    return num_workers, devices, draw(st.integers(least, 3 * least + 5))


def parts(num_workers, devices, count, batch_size):
    return [
        WorkerShard(index, num_workers, devices).slice_of(count, batch_size)
        for index in range(num_workers)
    ]


@given(total=counts, epoch=st.integers(0, 9), seed=st.integers(0, 2**31 - 1), division=divisions())
def test_every_example_is_in_an_epoch_once_for_any_division(total, epoch, seed, division):
    num_workers, devices, batch_size = division
    order, seen = shuffled(total, epoch, seed), []
    for step in range(num_steps(total, batch_size)):
        batch = order[step * batch_size : (step + 1) * batch_size]
        for part in parts(num_workers, devices, len(batch), batch_size):
            seen += batch[part.places[part.weights > 0]].tolist()
    assert sorted(seen) == list(range(total))


@given(division=divisions(), data=st.data())
def test_parts_have_equal_sizes_and_runs_differ_by_at_most_one_example(division, data):
    num_workers, devices, batch_size = division
    count = data.draw(st.integers(1, batch_size))
    replicas = num_workers * devices
    longest = -(-batch_size // replicas)
    found = parts(num_workers, devices, count, batch_size)
    for index, part in enumerate(found):
        assert len(part.places) == len(part.weights) == devices * longest
        assert len(part.places) == WorkerShard(index, num_workers, devices).size_of(batch_size)
        assert part.weights.dtype == np.float32
        assert set(part.weights) <= {0, 1}
        assert (part.places >= 0).all()
        assert (part.places < count).all()
    runs = np.concatenate([part.weights for part in found]).reshape(replicas, longest)
    if count == batch_size:
        assert runs.sum(1).min() >= longest - 1
    # In batch order: worker by worker, and device by device.
    positions = np.concatenate([part.places for part in found])
    assert positions[runs.ravel() > 0].tolist() == list(range(count))


@given(replicas=st.integers(1, 12), size=st.integers(1, 6), data=st.data())
def test_a_batch_is_divided_into_equal_slices_and_padded_with_its_own_examples(
    replicas, size, data
):
    batch_size = replicas * size
    count = data.draw(st.integers(1, batch_size))
    for index in range(replicas):
        part = WorkerShard(index, replicas).slice_of(count, batch_size)
        positions = np.arange(index * size, (index + 1) * size)
        np.testing.assert_array_equal(part.places, positions % count)
        np.testing.assert_array_equal(part.weights, positions < count)


def test_three_devices_share_eight_examples():
    # Runs [0, 2), [2, 5), [5, 8), the first padded to three.
    part = WorkerShard(0, 1, 3).slice_of(8, 8)
    assert part.weights.tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert part.places[part.weights > 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


@given(total=counts, epoch=st.integers(0, 99), seed=st.integers(0, 2**31 - 1))
def test_an_order_is_a_reproducible_permutation(total, epoch, seed):
    order = shuffled(total, epoch, seed)
    assert sorted(order) == list(range(total))
    np.testing.assert_array_equal(order, shuffled(total, epoch, seed))
    np.testing.assert_array_equal(shuffled(total, epoch, None), np.arange(total))


@pytest.mark.parametrize("seed", [0, 1])
def test_each_epoch_shuffles_all_examples_again(seed):
    total = 5000
    orders = [shuffled(total, epoch, seed) for epoch in range(4)]
    # Two uniform positions a and b have E (a - b)^2 = 2 Var = total^2 / 6. With a shuffle buffer
    # of 1024, the value would be far smaller.
    for order in orders:
        moved = np.mean((order - np.arange(total)) ** 2.0)
        assert moved == pytest.approx(total**2 / 6, rel=0.1)
    assert len({tuple(order) for order in orders}) == 4


@given(
    total=st.integers(1, 40),
    epoch=st.integers(0, 9),
    seed=st.integers(0, 99),
    batch_size=st.integers(1, 9),
)
def test_heads_and_backbones_use_the_same_order_and_blend_within_a_batch(
    total, epoch, seed, batch_size
):
    targets = np.ones((total, 1), np.float32)
    order = epoch_order(targets, epoch, seed=seed, batch_size=batch_size, num_versions=2, mixup=1.0)
    np.testing.assert_array_equal(order.rows, shuffled(total, epoch, seed))
    positions = np.arange(total)
    np.testing.assert_array_equal(order.mates // batch_size, positions // batch_size)
    assert sorted(order.mates) == positions.tolist()


def test_every_step_has_its_own_random_numbers():
    three = range(3)
    draws = [step_rng(*each).random() for each in product(three, three, three)]
    draws += [np.random.default_rng(each).random() for each in product(three, three)]
    assert len(set(draws)) == len(draws)
