import numpy as np
import pytest
from evaluation_fakes import make_curve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laser_dist.evaluation.metrics import (
    SourceErrors,
    SourceMeans,
    abs_psnr_errors,
    bootstrap_interval,
    mean_of_present,
    ratio_interval,
    score,
)
from laser_dist.evaluation.quality_table import QualityCurve

errors_of_sources = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(0, 30, width=32)
)
frames = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 51, width=32)), max_size=8)


def means_of(batch) -> SourceMeans:
    return SourceMeans.from_frames(
        [source for source, _ in batch], np.array([[value] for _, value in batch]).reshape(-1, 1)
    )


@given(frames, frames, frames)
def test_source_means_merge_in_any_order_to_the_mean_over_frames(first, second, third):
    one, two, three = map(means_of, (first, second, third))
    forward, backward = one.merge(two).merge(three).compute(), three.merge(two.merge(one)).compute()
    frames_of: dict[str, list[float]] = {}
    for source, value in first + second + third:
        frames_of.setdefault(source, []).append(value)
    assert forward.keys() == backward.keys() == frames_of.keys()
    for source, values in frames_of.items():
        assert forward[source] == pytest.approx(np.mean(values))
        assert backward[source] == pytest.approx(np.mean(values))


@given(frames)
def test_empty_is_neutral(batch):
    means = means_of(batch)
    for merged in (SourceMeans.empty().merge(means), means.merge(SourceMeans.empty())):
        assert merged.compute() == means.compute()


def test_a_source_id_is_needed_for_every_frame():
    with pytest.raises(ValueError, match="1 ids for 2 frames"):
        SourceMeans.from_frames(["a"], np.zeros((2, 3)))


@given(st.floats(0, 30), st.integers(1, 12))
def test_constant_errors_have_no_spread(error, num_sources):
    for low, high in bootstrap_interval(np.full((num_sources, 3), error), seed=0):
        assert (low, high) == pytest.approx((error, error))


@given(errors_of_sources, st.integers(0, 5), st.randoms(use_true_random=False))
def test_interval_lies_within_the_data_and_ignores_the_order_of_sources(errors, seed, random):
    intervals = bootstrap_interval(errors, seed=seed, num_resamples=200)
    order = list(range(len(errors)))
    random.shuffle(order)
    assert bootstrap_interval(errors[order], seed=seed, num_resamples=200) == intervals
    for (low, high), column in zip(intervals, errors.T, strict=True):
        assert column.min() - 1e-6 <= low <= high <= column.max() + 1e-6


def test_interval_is_as_wide_as_theory_says():
    # The standard error of a mean of N draws of standard deviation s is s / sqrt(N), and 95 % of a
    # normal distribution lie within 1.96 of them.
    values = np.random.default_rng(0).normal(5.0, 2.0, size=(400, 1))
    ((low, high),) = bootstrap_interval(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).normal(size=(30, 3))
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_an_interval_is_that_of_the_values_that_are_there():
    values = np.random.default_rng(0).normal(size=(30, 3))
    values[::4, 1] = values[:, 2] = np.nan
    first, second, third = bootstrap_interval(values, seed=4)
    assert first == bootstrap_interval(values[:, :1], seed=4)[0]
    assert second == bootstrap_interval(values[~np.isnan(values[:, 1]), 1:2], seed=4)[0]
    assert np.isnan(third).all()


def test_means_are_of_the_values_that_are_there():
    values = np.array([[1.0, np.nan, np.nan], [4, 3, np.nan]])
    assert mean_of_present(values) == 8 / 3
    np.testing.assert_array_equal(mean_of_present(values, axis=0), [2.5, 3, np.nan])
    np.testing.assert_array_equal(mean_of_present(values, axis=1), [1, 3.5])


@given(errors_of_sources)
def test_where_nothing_is_missing_not_a_bit_differs_from_the_plain_mean(errors):
    for axis in (None, 0, 1):
        np.testing.assert_array_equal(mean_of_present(errors, axis), errors.mean(axis))


def test_no_source_has_no_interval():
    with pytest.raises(ValueError, match="at least one source"):
        bootstrap_interval(np.zeros((0, 3)), seed=0)


@given(st.floats(0.1, 3), st.integers(2, 10))
def test_a_fixed_ratio_has_no_spread(ratio, num_sources):
    baseline = np.linspace(1, 4, num_sources)
    groups = [f"g{index // 2}" for index in range(num_sources)]
    interval = ratio_interval(ratio * baseline, baseline, groups, seed=0, num_resamples=100)
    assert interval == pytest.approx((ratio, ratio))


def test_ratio_over_groups_is_less_sure_than_over_sources():
    # Ten groups of twelve sources that all err alike are ten observations, not 120.
    rng = np.random.default_rng(0)
    errors, baseline = np.repeat(rng.uniform(0.5, 3, size=(10, 2)), 12, axis=0).T
    groups = np.repeat([f"g{index}" for index in range(10)], 12)
    alone = [f"s{index}" for index in range(120)]
    low, high = ratio_interval(errors, baseline, groups.tolist(), seed=0)
    low_alone, high_alone = ratio_interval(errors, baseline, alone, seed=0)
    assert high - low > 2 * (high_alone - low_alone)


def test_a_perfect_baseline_leaves_no_ratio():
    assert np.isnan(ratio_interval(np.ones(3), np.zeros(3), ["a", "b", "c"], seed=0)).all()


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(1, 51)))
def test_no_error_in_level_is_no_error_in_psnr(levels):
    assert not abs_psnr_errors([make_curve()] * 4, levels, levels).any()


def test_psnr_error_is_slope_times_level_error_on_a_straight_curve():
    # 0.5 dB a QP: 2 QP off is 1 dB off, whichever way.
    error = abs_psnr_errors([make_curve(0.5)], np.array([[22.0, 30.5, 40]]), np.array([[24.0] * 3]))
    assert error == pytest.approx(np.array([[1.0, 3.25, 8.0]]))


def test_a_prediction_off_the_table_counts_as_its_end():
    curve = QualityCurve(np.array([20.0, 30.0]), np.array([40.0, 35.0]), np.array([2.0, 1.0]))
    error = abs_psnr_errors([curve], np.array([[-5.0, 99.0, 30.0]]), np.array([[20.0, 30.0, 30.0]]))
    assert error.tolist() == [[0, 0, 0]]


def test_a_missing_level_has_no_psnr_error_and_the_others_keep_theirs():
    error = abs_psnr_errors(
        [make_curve(0.5)], np.array([[22.0, 30.5, 40]]), np.array([[24.0, np.nan, 24.0]])
    )
    assert error == pytest.approx(np.array([[1.0, np.nan, 8.0]]), nan_ok=True)


def test_the_score_is_of_the_levels_that_are_there():
    errors = np.array([[1.0, 2, np.nan], [3, np.nan, np.nan], [5, 4, np.nan]])
    constant = np.array([[2.0, 4, np.nan], [4, np.nan, np.nan], [10, 8, np.nan]])
    found = score(SourceErrors(errors, errors), SourceErrors(constant, constant), ["a"] * 3, seed=0)
    assert found.abs_error == pytest.approx((3, 3, np.nan), nan_ok=True)
    assert found.abs_psnr_error_db == pytest.approx((3, 3, np.nan), nan_ok=True)
    assert found.mean_abs_error == 15 / 5
    assert found.ratio_to_constant == pytest.approx(15 / 28)
    # All of one group: each draw is the whole, so the interval is the ratio itself.
    assert found.ratio_to_constant_interval == pytest.approx((15 / 28,) * 2)


@given(errors_of_sources)
def test_score_of_a_perfect_predictor_is_zero(constant):
    zeros = np.zeros_like(constant)
    groups = [str(index) for index in range(len(constant))]
    found = score(SourceErrors(zeros, zeros), SourceErrors(constant, constant), groups, seed=0)
    assert found.abs_error == found.abs_psnr_error_db == (0, 0, 0)
    assert found.abs_error_interval == ((0, 0),) * 3
    assert found.ratio_to_constant == 0 or not constant.any()
