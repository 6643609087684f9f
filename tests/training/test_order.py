"""Which examples an epoch has, in which order, and whose they are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.training.examples.order import (
    WorkerShard,
    epoch_order,
    num_steps,
    shuffled,
    step_rng,
)

counts = st.integers(1, 120)


@st.composite
def cuts(draw):
    """Any number of workers, of their devices, and a batch size that has an example for each."""
    num_workers, devices = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    least = num_workers * devices
    return num_workers, devices, draw(st.integers(least, 3 * least + 5))


def parts(num_workers, devices, count, batch_size):
    return [
        WorkerShard(index, num_workers, devices).slice_of(count, batch_size)
        for index in range(num_workers)
    ]


@given(total=counts, epoch=st.integers(0, 9), seed=st.integers(0, 2**31 - 1), cut=cuts())
def test_every_example_is_seen_once_in_an_epoch_however_it_is_cut_up(total, epoch, seed, cut):
    num_workers, devices, batch_size = cut
    order, seen = shuffled(total, epoch, seed), []
    for step in range(num_steps(total, batch_size)):
        batch = order[step * batch_size : (step + 1) * batch_size]
        for part in parts(num_workers, devices, len(batch), batch_size):
            seen += batch[part.places[part.weights > 0]].tolist()
    assert sorted(seen) == list(range(total))


@given(cut=cuts(), data=st.data())
def test_parts_are_of_one_size_and_fair_to_one_example(cut, data):
    num_workers, devices, batch_size = cut
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
    # In the order of the batch: workers one after the other, and so the devices of each.
    places = np.concatenate([part.places for part in found])
    assert places[runs.ravel() > 0].tolist() == list(range(count))


@given(replicas=st.integers(1, 12), size=st.integers(1, 6), data=st.data())
def test_a_batch_that_fits_is_cut_into_equal_slices_and_filled_up_by_itself(replicas, size, data):
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
def test_an_order_is_a_permutation_that_can_be_had_again(total, epoch, seed):
    order = shuffled(total, epoch, seed)
    assert sorted(order) == list(range(total))
    np.testing.assert_array_equal(order, shuffled(total, epoch, seed))
    np.testing.assert_array_equal(shuffled(total, epoch, None), np.arange(total))


@pytest.mark.parametrize("seed", [0, 1])
def test_each_epoch_shuffles_all_examples_again(seed):
    total = 5000
    orders = [shuffled(total, epoch, seed) for epoch in range(4)]
    # Two uniform places a and b have E (a - b)^2 = 2 Var = total^2 / 6. A shuffling buffer of 1024
    # would move most examples far less.
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
def test_heads_and_backbones_see_examples_in_one_order_and_blend_within_a_batch(
    total, epoch, seed, batch_size
):
    targets = np.ones((total, 1), np.float32)
    order = epoch_order(targets, epoch, seed=seed, batch_size=batch_size, num_versions=2, mixup=1.0)
    np.testing.assert_array_equal(order.rows, shuffled(total, epoch, seed))
    places = np.arange(total)
    np.testing.assert_array_equal(order.mates // batch_size, places // batch_size)
    assert sorted(order.mates) == places.tolist()


def test_what_is_drawn_for_a_step_is_drawn_for_no_other():
    three = range(3)
    draws = [step_rng(*each).random() for each in product(three, three, three)]
    draws += [np.random.default_rng(each).random() for each in product(three, three)]
    assert len(set(draws)) == len(draws)
