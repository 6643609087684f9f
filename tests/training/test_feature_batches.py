from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fakes import ArrayFeatures, assert_same_steps, batches, joined, worker_sources

from laser_dist.examples.features import FeatureBatches
from laser_dist.examples.order import has_level, num_steps

pytestmark = pytest.mark.slow


@st.composite
def feature_batches(draw, **fixed):
    """Draw features that encode their example and version, and levels that encode their example."""
    count, num_versions = draw(st.integers(1, 20)), draw(st.sampled_from([1, 2]))
    # The features of example e in version v are e's unit vector times v + 1, one per branch.
    unit = np.eye(count, dtype=np.float16).reshape(count, 1, 1, 1, count)
    features = np.stack([unit * (version + 1) for version in range(num_versions)])
    settings = {
        "features": ArrayFeatures.of(features),
        "num_versions": num_versions,
        "targets": np.eye(count, dtype=np.float32),
        "batch_size": 6 * draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 99)),
        "mixup": draw(st.sampled_from([0.0, 1.0])),
    }
    return FeatureBatches(**settings | fixed)


@given(source=feature_batches(mixup=0.0), num_workers=st.sampled_from([1, 2, 3]))
def test_an_epoch_contains_the_features_of_every_example_once(source, num_workers):
    steps = joined(source, num_workers)
    inputs, targets = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    assert sorted(targets.argmax(1)) == list(range(len(source.targets)))
    np.testing.assert_array_equal(inputs.reshape(targets.shape) > 0, targets > 0)


@given(source=feature_batches(), num_workers=st.sampled_from([2, 3]), epoch=st.integers(0, 5))
def test_all_workers_together_get_the_batches_of_one_worker(source, num_workers, epoch):
    assert_same_steps(joined(source, num_workers, epoch), joined(source, 1, epoch))


@given(source=feature_batches(), num_workers=st.sampled_from([1, 2, 3]))
def test_padding_has_weight_zero(source, num_workers):
    own, count = source.batch_size // num_workers, len(source.targets)
    weights = np.stack(
        [
            [batch.weights for batch in each.epoch(0)]
            for each in worker_sources(source, num_workers)
        ],
        axis=1,
    )
    assert weights.shape == (num_steps(count, source.batch_size), num_workers, own)
    assert weights.ravel().tolist() == [1] * count + [0] * (weights.size - count)


@given(
    source=feature_batches(),
    num_workers=st.integers(1, 3),
    devices=st.integers(1, 4),
    batch_size=st.integers(12, 20),
    start=st.integers(0, 3),
)
def test_steps_do_not_depend_on_the_number_of_devices_or_the_first_step(
    source, num_workers, devices, batch_size, start
):
    source = replace(source, batch_size=batch_size)
    steps = joined(source, num_workers, start=start, devices=devices)
    expected = joined(source, 1)[start:]
    assert len(steps) == len(expected)
    assert_same_steps(steps, expected)


@given(source=feature_batches(seed=None))
def test_without_a_seed_features_are_in_stored_order(source):
    inputs, targets = (np.concatenate(parts) for parts in zip(*joined(source, 1), strict=True))
    np.testing.assert_array_equal(inputs, source.features.array[0, :, 0])
    np.testing.assert_array_equal(targets, source.targets)


def test_each_epoch_has_another_order_and_other_versions():
    features = np.arange(2 * 9, dtype=np.float16).reshape(2, 9, 1, 1, 1, 1)
    source = FeatureBatches(
        features=ArrayFeatures.of(features),
        targets=np.zeros((9, 1), np.float32),
        batch_size=3,
        seed=1,
        num_versions=2,
    )
    epochs = [np.ravel([inputs for inputs, _ in joined(source, 1, epoch)]) for epoch in range(20)]
    assert len({tuple(epoch % 9) for epoch in epochs}) == 20
    # 180 fair coins: off by more than four standard deviations of 0.037 for one seed in 16,000.
    assert abs(np.mean(np.array(epochs) >= 9) - 0.5) < 0.15


@given(source=feature_batches(mixup=1.0))
@settings(max_examples=30)
def test_features_and_levels_of_two_examples_are_blended_equally(source):
    steps = joined(replace(source, num_versions=1), 1)
    inputs, targets = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    np.testing.assert_array_equal(inputs.reshape(targets.shape), targets)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    assert targets.min() >= 0
    assert ((targets > 0).sum(1) <= 2).all()


@given(source=feature_batches(mixup=1.0), num_workers=st.sampled_from([1, 2, 3]))
def test_every_batch_of_a_blended_epoch_has_the_same_parts(source, num_workers):
    """Otherwise a worker with nothing to blend would trace another graph, and all would hang."""
    for worker in worker_sources(source, num_workers):
        assert all(batch.mates is not None for batch in worker.epoch(0))
        assert all(batch.kept is not None for batch in worker.epoch(0))


def test_blend_weights_are_beta_distributed():
    count = 2000
    source = batches(
        np.zeros((count, 1)), np.arange(count)[:, None], batch_size=count, seed=0, mixup=0.5
    )
    (first,), (blended,) = (
        [targets.ravel() for _, targets in joined(one, 1)]
        for one in (replace(source, mixup=0.0), source)
    )
    # Both have the same order, because the order is drawn first. For the unblended value v of an
    # example, the blend is share * v + (1 - share) * mate.
    # Cov(v, blend) = E[share] Var(v) = Var(v) / 2, and the mate is independent of v.
    slope = np.cov(first, blended)[0, 1] / first.var()
    assert slope == pytest.approx(0.5, abs=0.1)
    # E[share^2 + (1 - share)^2] = 1 - 2 E[share (1 - share)] = 1 - 2 * (1/4 - Var(share)), where
    # Var(share) of Beta(a, a) is 1 / (4 (2 a + 1)): 1/8 for a = 1/2. So 3/4 is left.
    assert blended.var() / first.var() == pytest.approx(0.75, abs=0.08)


@st.composite
def gappy_batches(draw, **fixed):
    """Draw features as `feature_batches` does; any level of any example may be missing."""
    source = draw(feature_batches(**fixed))
    count = len(source.targets)
    flags = draw(st.lists(st.booleans(), min_size=3 * count, max_size=3 * count))
    levels = np.arange(count, dtype=np.float32)[:, None] + np.float32([100, 200, 300])
    levels[np.array(flags).reshape(count, 3)] = np.nan
    return replace(source, targets=levels)


@given(source=gappy_batches(), num_workers=st.sampled_from([1, 2, 3]), epoch=st.integers(0, 3))
def test_a_blend_lacks_the_levels_that_either_example_lacks(source, num_workers, epoch):
    source = replace(source, num_versions=1)
    steps = joined(source, num_workers, epoch)
    usable = int(has_level(source.targets).sum())
    assert len(steps) == num_steps(usable, source.batch_size)
    assert sum(len(inputs) for inputs, _ in steps) == usable
    for inputs, targets in steps:
        assert np.isfinite(inputs).all()
        for parts, levels in zip(inputs.reshape(len(targets), -1), targets, strict=True):
            seen = np.flatnonzero(parts)  # indices of the examples, from their unit vectors
            expected = parts[seen] @ source.targets[seen]  # NaN if one of them lacks the level
            np.testing.assert_allclose(levels, expected, rtol=1e-5)
            assert np.isfinite(levels).any()
    assert_same_steps(steps, joined(source, 1, epoch))


@given(source=gappy_batches(mixup=0.0))
def test_every_example_with_a_level_is_used_once(source):
    seen = [
        int(row.argmax())
        for inputs, _ in joined(source, 1)
        for row in inputs.reshape(len(inputs), -1)
    ]
    assert sorted(seen) == np.flatnonzero(has_level(source.targets)).tolist()


@given(num_branches=st.sampled_from([1, 3]))
def test_each_branch_gets_its_own_features(num_branches):
    features = np.arange(1 * 4 * num_branches * 2 * 1 * 1, dtype=np.float16)
    features = features.reshape(1, 4, num_branches, 2, 1, 1)
    source = FeatureBatches(
        features=ArrayFeatures.of(features),
        targets=np.zeros((4, num_branches), np.float32),
        batch_size=4,
    )
    (batch,) = source.epoch(0)
    inputs = [batch.inputs] if num_branches == 1 else batch.inputs
    assert isinstance(inputs, list)
    assert len(inputs) == num_branches
    for branch, values in enumerate(inputs):
        np.testing.assert_array_equal(values, features[0, :, branch])
