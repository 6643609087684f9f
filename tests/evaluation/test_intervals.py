"""Intervals over groups: how often they contain the expected value, and their edge cases."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laser_dist.evaluation.intervals import mean_interval, mean_intervals, ratio_interval

pytestmark = pytest.mark.slow

# Clips of each of VideoSet's 11 films, by the paper's table of sources.
FILMS = (31, 59, 11, 14, 5, 15, 13, 10, 9, 13, 40)
SIZES = {
    "4 groups": (40,) * 4,
    "6 groups": (20,) * 6,
    "10 groups": (12,) * 10,
    "30 groups": (5,) * 30,
    "films": FILMS,
}
NUM_SIMULATIONS = 1500

each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
each_correlation = pytest.mark.parametrize("correlation", [0.05, 0.3])
errors_of_sources = hnp.arrays(
    np.float64, st.tuples(st.integers(2, 12), st.just(3)), elements=st.floats(0, 30, width=32)
)


def group_ids(sizes):
    return [f"g{group:02d}" for group, size in enumerate(sizes) for _ in range(size)]


def correlated_normals(sizes, correlation, rng, num=1):
    """Yield [N, num] standard normal values; those of one group have this correlation."""
    members = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(NUM_SIMULATIONS):
        common = rng.normal(size=(len(sizes), num))[members]
        own = rng.normal(size=common.shape)
        yield np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own


def coverage(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@each_size
@each_correlation
def test_the_interval_of_a_mean_covers_it_as_often_as_it_says(sizes, correlation):
    rng, groups = np.random.default_rng(1), group_ids(sizes)
    found = [
        mean_interval(values[:, 0], groups)
        for values in correlated_normals(sizes, correlation, rng)
    ]
    assert 0.92 <= coverage(found, 0.0) <= 0.98


@each_size
@each_correlation
def test_the_interval_of_a_mean_absolute_error_covers_it(sizes, correlation):
    # Errors are skewed: the mean of |x| of a standard normal x is sqrt(2 / pi).
    rng, groups = np.random.default_rng(2), group_ids(sizes)
    found = [
        mean_interval(np.abs(values[:, 0]), groups)
        for values in correlated_normals(sizes, correlation, rng)
    ]
    assert 0.92 <= coverage(found, np.sqrt(2 / np.pi)) <= 0.98


@each_size
@each_correlation
def test_the_intervals_of_paired_comparisons_cover_them(sizes, correlation):
    # The baseline's errors are 1.5 times as large, and half of each error is common to both.
    rng, groups = np.random.default_rng(3), group_ids(sizes)
    differences, ratios = [], []
    for values in correlated_normals(sizes, correlation, rng, 3):
        own, other = np.abs(values[:, :1] + values[:, 1:]).T * np.array([[1.0], [1.5]])
        differences.append(mean_interval(own - other, groups))
        ratios.append(ratio_interval(own, other, groups))
    mean = np.sqrt(2) * np.sqrt(2 / np.pi)  # of |x + y| for standard normal x and y
    assert 0.92 <= coverage(differences, mean - 1.5 * mean) <= 0.98
    assert 0.92 <= coverage(ratios, 1 / 1.5) <= 0.98


def test_groups_of_one_size_have_the_t_interval_of_their_means_a_little_wider():
    values = np.random.default_rng(0).normal(5, 2, size=(6, 20))
    means = values.mean(axis=1)
    expected = scipy.stats.ttest_1samp(means, 0).confidence_interval(0.95)
    found = np.array(mean_interval(values.ravel(), group_ids([20] * 6)))
    assert (found - means.mean()) / np.sqrt(6 / 5) + means.mean() == pytest.approx(
        (expected.low, expected.high)
    )


@given(errors_of_sources, st.randoms(use_true_random=False))
def test_an_interval_contains_the_mean_and_ignores_the_order_of_sources(errors, random):
    groups = [f"g{index // 2}" for index in range(len(errors))]
    intervals = mean_intervals(errors, groups)
    order = list(range(len(errors)))
    random.shuffle(order)
    shuffled = mean_intervals(errors[order], [groups[index] for index in order])
    np.testing.assert_allclose(shuffled, intervals, rtol=1e-9, atol=1e-9)
    for (low, high), column in zip(intervals, errors.T, strict=True):
        if len(set(groups)) > 1:
            assert 0 <= low <= column.mean() + 1e-9
            assert column.mean() - 1e-9 <= high


def test_copies_of_clips_do_not_narrow_an_interval():
    values = np.random.default_rng(0).uniform(0, 3, size=10)
    once = mean_interval(values, group_ids([1] * 10))
    assert mean_interval(np.repeat(values, 12), group_ids([12] * 10)) == pytest.approx(once)


def test_missing_values_and_groups_without_values_are_left_out():
    values = np.random.default_rng(0).normal(size=(30, 3))
    groups = group_ids([5] * 6)
    values[:5, 1], values[7, 1], values[:, 2] = np.nan, np.nan, np.nan
    present = ~np.isnan(values[:, 1])
    kept = [group for group, is_present in zip(groups, present, strict=True) if is_present]
    first, second, third = mean_intervals(values, groups)
    assert first == mean_interval(values[:, 0], groups)
    assert second == mean_interval(values[present, 1], kept)
    assert np.isnan(third).all()


def test_several_levels_of_a_source_are_one_observation():
    values = np.random.default_rng(0).normal(size=(12, 3))
    groups = group_ids([3] * 4)
    assert mean_interval(values, groups) == pytest.approx(mean_interval(values.mean(1), groups))


def test_one_group_has_no_interval():
    assert np.isnan(mean_interval(np.arange(9.0), ["a"] * 9)).all()
    assert np.isnan(mean_interval(np.zeros(0), [])).all()


def test_equal_values_have_a_point_as_interval():
    assert mean_interval(np.full(9, 2.5), group_ids([4, 3, 2])) == pytest.approx((2.5, 2.5))


def test_a_fixed_ratio_has_a_point_as_interval():
    baseline = np.linspace(1, 4, 9)
    found = ratio_interval(0.7 * baseline, baseline, group_ids([4, 3, 2]))
    assert found == pytest.approx((0.7, 0.7))


def test_a_ratio_to_a_perfect_baseline_has_no_interval():
    assert np.isnan(ratio_interval(np.ones(3), np.zeros(3), ["a", "b", "c"])).all()


@pytest.mark.parametrize("sizes", [(40, 5), (1000, 1)])
def test_two_groups_of_very_different_sizes_have_no_interval(sizes):
    """Two equal groups have one degree of freedom, of which the t interval is 12.7 wide."""
    values = np.random.default_rng(0).normal(size=sum(sizes))
    groups = np.repeat(["a", "b"], sizes).tolist()
    assert np.isnan(mean_interval(values, groups)).all()
    equal = np.repeat(["a", "b"], 20).tolist()
    assert np.isfinite(mean_interval(values[:40], equal)).all()
