from dataclasses import replace

import numpy as np
import pytest
from evaluation_fakes import VIEWERS_SPREAD, make_results, make_sources, with_gaps, with_viewers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, wasserstein_distance

from laser_dist.evaluation.baselines import CONSTANT
from laser_dist.evaluation.dataset import SourceTable
from laser_dist.evaluation.plots import sur_curves
from laser_dist.evaluation.sur_metrics import (
    compare_sur,
    constant_sur,
    label_noise,
    lossy_quantizers,
    network_sur,
    sur_at,
    viewers_curves,
)
from laser_dist.jnd.scale import QF, QP

pytestmark = pytest.mark.slow

EACH_SCALE = pytest.mark.parametrize("scale", [QP, QF], ids=lambda scale: scale.name)


def compare(levels, spreads, *, scale=QP, train=None, test=None):
    train = train or with_viewers(make_sources(20, seed=1), scale=scale)
    test = test or with_viewers(make_sources(8, seed=2, first=101), scale=scale)
    curves = {
        "lat": network_sur(levels, spreads, scale),
        CONSTANT: constant_sur(train, len(test.levels), scale),
    }
    return compare_sur(test, curves, spreads, scale)


def one_source(*samples):
    """Return a source of one level with these samples."""
    return SourceTable(("a",), ("a",), np.array([[24.0]]), np.ones((1, 2)), ((np.array(samples),),))


def test_difference_matches_a_count_by_hand():
    test = one_source(24, 26)
    # Predicted without spread: all viewers are satisfied up to QP 23 and none from QP 24. In fact,
    # one of two viewers is still satisfied at 24 and 25: a difference of 0.5 at 2 of 51 quantizers.
    found = compare(np.array([[24.0]]), np.array([[0.0]]), test=test, train=one_source(24, 24))
    assert found.predictors["lat"].distances == pytest.approx(np.array([[2 * 0.5]]))
    # The constant baseline is the training viewers' curve, here the same as the prediction.
    assert found.predictors[CONSTANT].distances == pytest.approx(np.array([[2 * 0.5]]))
    assert found.predictors["lat"].score.mean_wasserstein == pytest.approx(1)


@EACH_SCALE
def test_true_level_and_spread_have_the_lowest_difference(scale):
    test = with_viewers(make_sources(8, seed=2, first=101), scale=scale)

    def difference(shift, factor):
        spreads = np.full_like(test.levels, VIEWERS_SPREAD * factor)
        found = compare(test.levels + shift, spreads, scale=scale, test=test)
        means = {k: one.score.mean_wasserstein for k, one in found.predictors.items()}
        return means["lat"], means[CONSTANT]

    right, constant = difference(0, 1)
    assert right < 0.2 * constant
    for shift, factor in ((0.5, 1), (-0.5, 1), (0, 1.5), (0, 0.5)):
        assert difference(shift, factor)[0] > 1.5 * right


@EACH_SCALE
def test_constant_baseline_is_the_mean_of_the_training_curves(scale):
    train = with_viewers(make_sources(20, seed=1), scale=scale)
    # One test source with the samples of all training sources: its curve is their mean.
    samples = [np.concatenate([of[level] for of in train.viewer_samples]) for level in range(3)]
    test = SourceTable(("a",), ("a",), train.levels[:1], train.activity[:1], (tuple(samples),))
    zeros = np.zeros((1, 3))
    found = compare(test.levels, zeros, scale=scale, train=train, test=test)
    assert found.predictors[CONSTANT].distances == pytest.approx(zeros, abs=1e-12)


@given(st.floats(-20, 80), st.floats(0, 30))
def test_distances_are_at_most_the_length_of_the_scale(level, spread):
    found = compare(np.full((8, 3), level), np.full((8, 3), spread))
    for one in found.predictors.values():
        assert (one.distances >= 0).all()
        assert (one.distances <= 51).all()


@EACH_SCALE
def test_the_distance_is_scipys_of_the_two_distributions_of_samples(scale):
    samples = np.random.default_rng(0).integers(20, 45, size=25)
    table = one_source(*samples)
    level, spread = 33.0, 4.0
    found = compare_sur(
        table,
        {"lat": network_sur(np.array([[level]]), np.array([[spread]]), scale)},
        np.array([[spread]]),
        scale,
    )
    # Samples of a normal distribution whose better quarter notices at the level, rounded.
    worse = 1 if scale.higher_is_worse else -1
    drawn = norm(level + worse * spread * norm.ppf(0.75), spread)
    support = np.arange(scale.lowest - 1, scale.highest + 2)
    weights = drawn.cdf(support + 0.5) - drawn.cdf(support - 0.5)
    expected = wasserstein_distance(support, samples, u_weights=weights)
    assert found.predictors["lat"].distances == pytest.approx(np.array([[expected]]), abs=1e-3)


@EACH_SCALE
def test_label_noise_is_what_resampling_gives(scale):
    rng = np.random.default_rng(0)
    samples = np.rint(rng.normal(30, 4.7, size=30)).astype(int)
    # The quarter of the viewers who notice first; 8 of 30 are the first to be a quarter.
    ordered = np.sort(samples)[:: 1 if scale.higher_is_worse else -1]
    drawn = np.sort(rng.choice(samples, size=(40_000, 30)), axis=1)
    resampled = drawn[:, 7] if scale.higher_is_worse else drawn[:, -8]
    expected = np.abs(resampled - ordered[7]).mean()
    table = replace(one_source(*samples), levels=np.array([[float(ordered[7])]]))
    (found,) = label_noise(table, scale)
    assert found == pytest.approx(expected, abs=0.01)


@EACH_SCALE
def test_label_noise_of_levels_that_are_means_is_that_of_the_mean(scale):
    rng = np.random.default_rng(0)
    samples = np.rint(rng.normal(30, 4.7, size=30)).astype(int)
    table = replace(one_source(*samples), levels=np.array([[samples.mean()]]))
    resampled = rng.choice(samples, size=(40_000, 30)).mean(axis=1)
    (found,) = label_noise(table, scale)
    assert found == pytest.approx(np.abs(resampled - samples.mean()).mean(), rel=0.02)


def test_label_noise_is_unknown_if_levels_are_of_another_kind():
    table = replace(one_source(*[20] * 10, *[40] * 20), levels=np.array([[28.0]]))
    assert np.isnan(label_noise(table, QP)).all()


def test_label_noise_of_unanimous_viewers_is_0_and_unknown_without_samples():
    assert label_noise(one_source(24, 24, 24), QP) == (0,)
    assert np.isnan(label_noise(make_sources(3), QP)).all()


@EACH_SCALE
def test_sur_at_a_level_is_the_share_of_viewers_who_notice_later(scale):
    table = one_source(24, 26, 26, 30)
    viewers = viewers_curves(table, scale)
    later = {QP: {24: 3, 25.4: 3, 26: 1, 99: 0}, QF: {24: 0, 26: 1, 29.4: 3, 99: 4}}[scale]
    for level, satisfied in later.items():
        assert sur_at(viewers, np.array([[float(level)]]), scale) == satisfied / 4
    assert np.isnan(sur_at(viewers, np.array([[np.nan]]), scale)).all()


def test_levels_without_samples_or_prediction_are_ignored():
    test = with_viewers(with_gaps(make_sources(8, seed=2, first=101), (0, 2), (3, 0)))
    levels = np.nan_to_num(test.levels, nan=30)
    levels[:, 1] = np.nan
    spreads = np.where(np.isnan(levels), np.nan, VIEWERS_SPREAD)
    found = compare(levels, spreads, test=test)
    for one in found.predictors.values():
        missing = np.isnan(one.distances)
        np.testing.assert_array_equal(missing, np.isnan(test.levels) | np.isnan(levels))
        assert np.isnan(one.score.wasserstein[1])
        present = one.distances[~missing]
        assert one.score.mean_wasserstein == pytest.approx(present.mean())


def test_plots_show_the_clip_of_median_difference_for_each_known_level():
    results = make_results(9, spread=2.5, gaps=[(row, 1) for row in range(9)])
    drawings = sur_curves(results)
    assert len(drawings) == 2
    differences = results.sur.predictors[results.model].distances
    for drawing, level in zip(drawings, (0, 2), strict=True):
        column = differences[:, level].tolist()
        row = column.index(np.median(column))
        assert f"JND{level + 1}: {results.test.source_ids[row]}" in drawing
    assert sur_curves(make_results(9)) == ()


def test_viewers_curves_are_missing_without_samples():
    table = make_sources(3)
    assert viewers_curves(table, QP).shape == (3, 3, 51)
    assert np.isnan(viewers_curves(table, QP)).all()
    assert lossy_quantizers(QF).tolist() == list(range(1, 101))
