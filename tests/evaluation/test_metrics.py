import numpy as np
import pytest
from evaluation_fakes import make_curve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laser_dist.evaluation.metrics import (
    bits_saved,
    level_psnrs,
    mean_of_present,
    score,
)
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.jnd.scale import QF, QP

errors_of_sources = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(0, 30, width=32)
)


def test_mean_of_present_ignores_missing_values():
    values = np.array([[1.0, np.nan, np.nan], [4, 3, np.nan]])
    assert mean_of_present(values) == 8 / 3
    np.testing.assert_array_equal(mean_of_present(values, axis=0), [2.5, 3, np.nan])
    np.testing.assert_array_equal(mean_of_present(values, axis=1), [1, 3.5])


@given(errors_of_sources)
def test_mean_of_present_equals_the_plain_mean_if_nothing_is_missing(errors):
    for axis in (None, 0, 1):
        np.testing.assert_array_equal(mean_of_present(errors, axis), errors.mean(axis))


def psnr_errors(curves, predicted, true):
    return np.abs(level_psnrs(curves, predicted) - level_psnrs(curves, true))


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(1, 51)))
def test_exact_levels_have_no_psnr_error(levels):
    assert not psnr_errors([make_curve()] * 4, levels, levels).any()


def test_psnr_error_on_a_straight_curve_is_slope_times_level_error():
    # 0.5 dB per QP: 2 QP are 1 dB, in both directions.
    error = psnr_errors([make_curve(0.5)], np.array([[22.0, 30.5, 40]]), np.array([[24.0] * 3]))
    assert error == pytest.approx(np.array([[1.0, 3.25, 8.0]]))


def test_predictions_outside_the_measured_range_are_clipped():
    curve = QualityCurve(np.array([20.0, 30.0]), np.array([40.0, 35.0]), np.array([2.0, 1.0]))
    error = psnr_errors([curve], np.array([[-5.0, 99.0, 30.0]]), np.array([[20.0, 30.0, 30.0]]))
    assert error.tolist() == [[0, 0, 0]]


def test_a_missing_level_has_no_psnr_error():
    error = psnr_errors(
        [make_curve(0.5)], np.array([[22.0, 30.5, 40]]), np.array([[24.0, np.nan, 24.0]])
    )
    assert error == pytest.approx(np.array([[1.0, np.nan, 8.0]]), nan_ok=True)


def scored(predicted, true, *, scale=QP, groups=None, constant=None, half_widths=None, **others):
    """Score predictions of sources whose size halves every 6 quantizers."""
    predicted, true = np.array(predicted, float), np.array(true, float)
    return score(
        predicted,
        true,
        groups or [f"g{row}" for row in range(len(true))],
        scale=scale,
        curves=[make_curve(scale=scale)] * len(true),
        sur_at_level=np.full(true.shape, 0.75),
        constant=np.full(true.shape, 30.0) if constant is None else np.array(constant, float),
        others={name: np.array(levels, float) for name, levels in others.items()},
        half_widths=None if half_widths is None else np.array(half_widths, float),
    )


def test_errors_of_each_level_match_a_calculation_by_hand():
    true = [[20], [24], [28], [32]]
    found = scored([[21], [22], [31], [37]], true, constant=[[26]] * 4)
    # Errors are 1, -2, 3 and 5; those of the constant 6, 2, -2 and -6.
    assert found.abs_error == (11 / 4,)
    assert found.bias == (7 / 4,)
    assert found.rmse == pytest.approx((np.sqrt(39 / 4),))
    assert found.within == {1: (1 / 4,), 2: (2 / 4,), 3: (3 / 4,)}
    assert found.overshoot == {0: (3 / 4,), 2: (2 / 4,), 4: (1 / 4,)}
    # Deviations from the means 26 and 27.75: products 114, squares 80 and 174.75.
    assert found.pearson == pytest.approx((114 / np.sqrt(80 * 174.75),))
    assert found.spearman == pytest.approx((1,))
    assert found.mean_abs_error == 11 / 4
    assert found.ratio_to_constant == pytest.approx(11 / 16)


@pytest.mark.parametrize(("scale", "rising"), [(QP, True), (QF, False)])
def test_levels_are_out_of_order_if_a_later_one_is_finer(scale, rising):
    # In order, equal, JND3 finer than JND2, JND2 finer than JND1 but JND3 not.
    levels = np.array([[20, 25, 30], [25, 25, 25], [20, 31, 30], [26, 25, 30]], float)
    levels = levels if rising else 100 - levels
    assert scored(levels, levels, scale=scale).order_violations == 2 / 4
    assert np.isnan(scored(levels[:, :1], levels[:, :1], scale=scale).order_violations)
    # The level that is not predicted has no order.
    levels[:, 1] = np.nan
    assert scored(levels, levels, scale=scale).order_violations == 0


def test_overshoot_in_quality_factors_is_below_the_viewers_level():
    found = scored([[29], [33], [20], [30]], [[30]] * 4, scale=QF)
    assert found.overshoot == {0: (2 / 4,), 2: (1 / 4,), 4: (1 / 4,)}
    assert found.bias == (-2,)


@pytest.mark.parametrize(("scale", "coarser"), [(QP, 1), (QF, -1)], ids=["QP", "QF"])
def test_bits_above_and_below_those_of_the_viewers_are_apart(scale, coarser):
    # Six quantizers finer need twice the bits, six coarser half of them.
    predicted = [[30 - 6 * coarser], [30 + 6 * coarser], [30], [30 + 12 * coarser]]
    found = scored(predicted, [[30]] * 4, scale=scale)
    assert found.extra_bits == pytest.approx((1 / 4,))
    assert found.missing_bits == pytest.approx(((1 / 2 + 3 / 4) / 4,))


@pytest.mark.parametrize(("scale", "coarser"), [(QP, 1), (QF, -1)], ids=["QP", "QF"])
def test_a_margin_makes_more_clips_safe_and_costs_bits(scale, coarser):
    predicted = [[30 + error * coarser] for error in (-1, 0, 2, 6)]
    margin = scored(predicted, [[30]] * 4, scale=scale).margin
    assert margin.margins == tuple(range(11))
    safe = [each[0] for each in margin.safe]
    assert safe == [2 / 4, 2 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4, *[1] * 5]
    extra = [each[0] for each in margin.extra_bits]
    at = [np.mean([2 ** ((m - error) / 6) for error in (-1, 0, 2, 6)]) - 1 for m in range(11)]
    assert extra == pytest.approx(at)


def test_score_ignores_missing_levels():
    true = [[10, 20, np.nan], [10, np.nan, np.nan], [10, 20, np.nan]]
    constant = [[12, 24, 9], [14, 9, 9], [20, 28, 9]]
    found = scored(
        [[11, 22, 9], [13, 9, 9], [15, 24, 9]], true, groups=["a"] * 3, constant=constant
    )
    assert found.abs_error == pytest.approx((3, 3, np.nan), nan_ok=True)
    assert found.abs_psnr_error_db == pytest.approx((1.8, 1.8, np.nan), nan_ok=True)
    assert found.within[3] == pytest.approx((2 / 3, 1 / 2, np.nan), nan_ok=True)
    assert found.mean_abs_error == 15 / 5
    assert found.ratio_to_constant == pytest.approx(15 / 28)
    # There is no interval of a single group.
    assert np.isnan(found.ratio_to_constant_interval).all()


def test_prediction_intervals_are_wide_and_cover_as_counted():
    true = [[20, 20], [24, np.nan], [28, 28], [32, 32]]
    found = scored(
        [[21, 20], [22, 20], [31, 20], [37, 20]],
        true,
        half_widths=[[1, 8], [2, 9], [2, 8], [5, 8]],
    ).prediction_interval
    assert found.nominal == 0.9
    assert found.half_width == (10 / 4, 8)
    assert found.coverage == (3 / 4, 2 / 3)
    assert scored([[21]], [[20]]).prediction_interval is None


def test_differences_are_paired():
    # The other is worse by 1 for each clip, though errors of clips differ much.
    true = np.arange(20.0, 32)[:, None]
    size = np.arange(12.0)[:, None]
    found = scored(true + size, true, other=true - size - 1, same=true + size)
    assert found.differences["other"].mean == -1
    assert found.differences["other"].interval == pytest.approx((-1, -1))
    assert found.differences["same"].interval == (0, 0)


def test_correlations_without_variation_or_with_two_clips_do_not_exist():
    assert np.isnan(scored([[30]] * 4, [[20], [24], [28], [32]]).pearson).all()
    assert np.isnan(scored([[20], [24]], [[20], [24]]).spearman).all()


@given(errors_of_sources)
def test_score_of_a_perfect_predictor_is_zero(levels):
    found = scored(levels, levels)
    assert found.abs_error == found.abs_psnr_error_db == found.rmse == found.bias == (0, 0, 0)
    assert found.within[1] == (1, 1, 1)
    assert found.overshoot[0] == found.extra_bits == found.missing_bits == (0, 0, 0)
    if len(levels) > 1:
        assert found.abs_error_interval == ((0, 0),) * 3


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
