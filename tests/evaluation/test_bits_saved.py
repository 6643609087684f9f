import numpy as np
import pytest

from laser_dist.evaluation.bits_saved import bits_saved
from laser_dist.evaluation.quality_table import QualityCurve
from laser_dist.jnd.scale import QF, QP


def curve(quantizers, bits):
    """PSNR says nothing here."""
    return QualityCurve(np.array(quantizers, float), np.zeros(len(bits)), np.array(bits, float))


def test_shares_are_against_the_lowest_qp():
    # 6 QP up are a quarter of the bits, so 3 QP are half and 9 an eighth.
    saved = bits_saved(
        [curve([18, 24, 30], [1600, 400, 100])],
        predicted=np.array([[21.0, 24, 27]]),
        true=np.array([[18.0, 21, 30]]),
        scale=QP,
    )
    assert saved.viewers == pytest.approx((0, 1 / 2, 15 / 16))
    assert saved.model == pytest.approx((1 / 2, 3 / 4, 7 / 8))
    assert (saved.finest, saved.num_sources, saved.num_left_out) == (18, 1, 0)


def test_shares_are_against_the_highest_quality_factor():
    saved = bits_saved(
        [curve([40, 70, 100], [100, 200, 800])],
        predicted=np.array([[85.0, 70, 10]]),
        true=np.array([[70.0, 40, 40]]),
        scale=QF,
    )
    assert saved.viewers == pytest.approx((3 / 4, 7 / 8, 7 / 8))
    assert saved.model == pytest.approx((1 / 2, 3 / 4, 7 / 8))  # below the table: its end
    assert saved.finest == 100


def test_sources_of_unknown_bits_are_counted_and_left_out():
    known, unknown = curve([18, 24], [1600, 400]), curve([10, 24], [np.nan, 400])
    levels = np.array([[21.0, 24, 24], [24, 24, 24]])
    saved = bits_saved([known, unknown], levels, levels, QP)
    assert saved.viewers == saved.model == pytest.approx((1 / 2, 3 / 4, 3 / 4))
    assert (saved.finest, saved.num_sources, saved.num_left_out) == (18, 1, 1)


def test_a_missing_level_counts_for_neither():
    curves = [curve([18, 24], [1600, 400])] * 2
    true = np.array([[24.0, np.nan, np.nan], [21, 24, np.nan]])
    saved = bits_saved(curves, np.array([[24.0, 18, 18], [24, 24, 24]]), true, QP)
    assert saved.viewers == pytest.approx((5 / 8, 3 / 4, np.nan), nan_ok=True)
    assert saved.model == pytest.approx((3 / 4, 3 / 4, np.nan), nan_ok=True)


def test_finest_quantizers_that_differ_are_not_named():
    curves = [curve([18, 24], [1600, 400]), curve([20, 24], [1600, 800])]
    levels = np.full((2, 3), 24.0)
    saved = bits_saved(curves, levels, levels, QP)
    # Three quarters of the one, half of the other.
    assert saved.viewers == pytest.approx((5 / 8,) * 3)
    assert saved.finest is None


def test_without_any_bits_there_is_no_share():
    saved = bits_saved([curve([18], [np.nan])], np.full((1, 3), 20.0), np.full((1, 3), 20.0), QP)
    assert np.isnan([saved.viewers, saved.model]).all()
    assert (saved.finest, saved.num_sources, saved.num_left_out) == (None, 0, 1)
