import numpy as np
import pytest
import scipy.stats
from evaluation_fakes import make_curve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laser_dist.evaluation.metrics import (
    abs_psnr_errors,
    bits_saved,
    bootstrap_interval,
    mean_of_present,
    ratio_interval,
    score,
)
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.jnd.scale import QF, QP

errors_of_sources = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(0, 30, width=32)
)


@given(st.floats(0, 30), st.integers(1, 12))
def test_interval_of_equal_errors_is_a_point(error, num_sources):
    for low, high in bootstrap_interval(np.full((num_sources, 3), error), seed=0):
        assert (low, high) == pytest.approx((error, error))


@given(errors_of_sources, st.integers(0, 5), st.randoms(use_true_random=False))
def test_interval_is_within_the_data_and_independent_of_the_order_of_sources(errors, seed, random):
    intervals = bootstrap_interval(errors, seed=seed, num_resamples=200)
    order = list(range(len(errors)))
    random.shuffle(order)
    assert bootstrap_interval(errors[order], seed=seed, num_resamples=200) == intervals
    for (low, high), column in zip(intervals, errors.T, strict=True):
        assert column.min() - 1e-6 <= low <= high <= column.max() + 1e-6


def test_interval_width_matches_the_normal_approximation():
    # The standard error of a mean of N draws of standard deviation s is s / sqrt(N), and 95% of a
    # normal distribution is within 1.96 standard errors.
    values = np.random.default_rng(0).normal(5.0, 2.0, size=(400, 1))
    ((low, high),) = bootstrap_interval(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_interval_agrees_with_scipy():
    # A skewed sample, for which an interval symmetric about the mean would be wrong.
    values = np.random.default_rng(0).exponential(3.0, size=40)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(1)
    ).confidence_interval
    ((low, high),) = bootstrap_interval(values[:, None], seed=2, num_resamples=20000)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=0.02)


def test_interval_depends_on_the_seed_only():
    values = np.random.default_rng(0).normal(size=(30, 3))
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)


def test_interval_ignores_missing_values():
    values = np.random.default_rng(0).normal(size=(30, 3))
    values[::4, 1] = values[:, 2] = np.nan
    first, second, third = bootstrap_interval(values, seed=4)
    assert first == bootstrap_interval(values[:, :1], seed=4)[0]
    assert second == bootstrap_interval(values[~np.isnan(values[:, 1]), 1:2], seed=4)[0]
    assert np.isnan(third).all()


def test_interval_without_sources_is_an_error():
    with pytest.raises(ValueError, match="at least one source"):
        bootstrap_interval(np.zeros((0, 3)), seed=0)


def test_mean_of_present_ignores_missing_values():
    values = np.array([[1.0, np.nan, np.nan], [4, 3, np.nan]])
    assert mean_of_present(values) == 8 / 3
    np.testing.assert_array_equal(mean_of_present(values, axis=0), [2.5, 3, np.nan])
    np.testing.assert_array_equal(mean_of_present(values, axis=1), [1, 3.5])


@given(errors_of_sources)
def test_mean_of_present_equals_the_plain_mean_if_nothing_is_missing(errors):
    for axis in (None, 0, 1):
        np.testing.assert_array_equal(mean_of_present(errors, axis), errors.mean(axis))


@given(st.floats(0.1, 3), st.integers(2, 10))
def test_interval_of_a_fixed_ratio_is_a_point(ratio, num_sources):
    baseline = np.linspace(1, 4, num_sources)
    groups = [f"g{index // 2}" for index in range(num_sources)]
    interval = ratio_interval(ratio * baseline, baseline, groups, seed=0, num_resamples=100)
    assert interval == pytest.approx((ratio, ratio))


def test_ratio_interval_over_groups_is_wider_than_over_sources():
    # Ten groups of twelve sources with equal errors are ten observations, not 120.
    rng = np.random.default_rng(0)
    errors, baseline = np.repeat(rng.uniform(0.5, 3, size=(10, 2)), 12, axis=0).T
    groups = np.repeat([f"g{index}" for index in range(10)], 12).tolist()
    own_groups = [f"s{index}" for index in range(120)]
    low, high = ratio_interval(errors, baseline, groups, seed=0)
    source_low, source_high = ratio_interval(errors, baseline, own_groups, seed=0)
    assert high - low > 2 * (source_high - source_low)


def test_ratio_to_a_perfect_baseline_is_undefined():
    assert np.isnan(ratio_interval(np.ones(3), np.zeros(3), ["a", "b", "c"], seed=0)).all()


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(1, 51)))
def test_exact_levels_have_no_psnr_error(levels):
    assert not abs_psnr_errors([make_curve()] * 4, levels, levels).any()


def test_psnr_error_on_a_straight_curve_is_slope_times_level_error():
    # 0.5 dB per QP: 2 QP are 1 dB, in both directions.
    error = abs_psnr_errors([make_curve(0.5)], np.array([[22.0, 30.5, 40]]), np.array([[24.0] * 3]))
    assert error == pytest.approx(np.array([[1.0, 3.25, 8.0]]))


def test_predictions_outside_the_measured_range_are_clipped():
    curve = QualityCurve(np.array([20.0, 30.0]), np.array([40.0, 35.0]), np.array([2.0, 1.0]))
    error = abs_psnr_errors([curve], np.array([[-5.0, 99.0, 30.0]]), np.array([[20.0, 30.0, 30.0]]))
    assert error.tolist() == [[0, 0, 0]]


def test_a_missing_level_has_no_psnr_error():
    error = abs_psnr_errors(
        [make_curve(0.5)], np.array([[22.0, 30.5, 40]]), np.array([[24.0, np.nan, 24.0]])
    )
    assert error == pytest.approx(np.array([[1.0, np.nan, 8.0]]), nan_ok=True)


def test_score_ignores_missing_levels():
    errors = np.array([[1.0, 2, np.nan], [3, np.nan, np.nan], [5, 4, np.nan]])
    constant = np.array([[2.0, 4, np.nan], [4, np.nan, np.nan], [10, 8, np.nan]])
    found = score(errors, errors, constant, ["a"] * 3, seed=0)
    assert found.abs_error == pytest.approx((3, 3, np.nan), nan_ok=True)
    assert found.abs_psnr_error_db == pytest.approx((3, 3, np.nan), nan_ok=True)
    assert found.mean_abs_error == 15 / 5
    assert found.ratio_to_constant == pytest.approx(15 / 28)
    # With a single group, each resample is the complete sample.
    assert found.ratio_to_constant_interval == pytest.approx((15 / 28,) * 2)


@given(errors_of_sources)
def test_score_of_a_perfect_predictor_is_zero(constant):
    zeros = np.zeros_like(constant)
    groups = [str(index) for index in range(len(constant))]
    found = score(zeros, zeros, constant, groups, seed=0)
    assert found.abs_error == found.abs_psnr_error_db == (0, 0, 0)
    assert found.abs_error_interval == ((0, 0),) * 3
    assert found.ratio_to_constant == 0 or not constant.any()


def size_curve(quantizers, num_bits):
    """Return a curve of sizes; its PSNR is not used."""
    return QualityCurve(
        np.array(quantizers, float), np.zeros(len(num_bits)), np.array(num_bits, float)
    )


def test_bits_saved_are_relative_to_the_lowest_qp():
    # Size falls by 1/4 every 6 QP, so by 1/2 every 3 QP.
    saved = bits_saved(
        [size_curve([18, 24, 30], [1600, 400, 100])],
        predicted=np.array([[21.0, 24, 27]]),
        true=np.array([[18.0, 21, 30]]),
        scale=QP,
    )
    assert saved.viewers == pytest.approx((0, 1 / 2, 15 / 16))
    assert saved.model == pytest.approx((1 / 2, 3 / 4, 7 / 8))
    assert (saved.finest, saved.num_sources, saved.num_left_out) == (18, 1, 0)


def test_bits_saved_are_relative_to_the_highest_quality_factor():
    saved = bits_saved(
        [size_curve([40, 70, 100], [100, 200, 800])],
        predicted=np.array([[85.0, 70, 10]]),
        true=np.array([[70.0, 40, 40]]),
        scale=QF,
    )
    assert saved.viewers == pytest.approx((3 / 4, 7 / 8, 7 / 8))
    assert saved.model == pytest.approx((1 / 2, 3 / 4, 7 / 8))  # QF 10 is clipped to 40
    assert saved.finest == 100


def test_sources_of_unknown_size_are_counted_and_left_out():
    known, unknown = size_curve([18, 24], [1600, 400]), size_curve([10, 24], [np.nan, 400])
    levels = np.array([[21.0, 24, 24], [24, 24, 24]])
    saved = bits_saved([known, unknown], levels, levels, QP)
    assert saved.viewers == saved.model == pytest.approx((1 / 2, 3 / 4, 3 / 4))
    assert (saved.finest, saved.num_sources, saved.num_left_out) == (18, 1, 1)


def test_a_missing_level_counts_neither_for_the_viewers_nor_for_the_model():
    curves = [size_curve([18, 24], [1600, 400])] * 2
    true = np.array([[24.0, np.nan, np.nan], [21, 24, np.nan]])
    saved = bits_saved(curves, np.array([[24.0, 18, 18], [24, 24, 24]]), true, QP)
    assert saved.viewers == pytest.approx((5 / 8, 3 / 4, np.nan), nan_ok=True)
    assert saved.model == pytest.approx((3 / 4, 3 / 4, np.nan), nan_ok=True)


def test_finest_quantizer_is_none_if_sources_differ():
    curves = [size_curve([18, 24], [1600, 400]), size_curve([20, 24], [1600, 800])]
    levels = np.full((2, 3), 24.0)
    saved = bits_saved(curves, levels, levels, QP)
    # 3/4 of the first and 1/2 of the second.
    assert saved.viewers == pytest.approx((5 / 8,) * 3)
    assert saved.finest is None


def test_bits_saved_are_undefined_if_no_size_is_known():
    levels = np.full((1, 3), 20.0)
    saved = bits_saved([size_curve([18], [np.nan])], levels, levels, QP)
    assert np.isnan([saved.viewers, saved.model]).all()
    assert (saved.finest, saved.num_sources, saved.num_left_out) == (None, 0, 1)
