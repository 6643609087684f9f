import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from laser_dist.jnd.normal_sur import normal_level, normal_sur, normal_sur_curve, sample_mean
from laser_dist.jnd.scale import QF, QP
from laser_dist.jnd.sur import level_at_sur, sur_curve

EACH_SCALE = pytest.mark.parametrize("scale", [QP, QF], ids=lambda scale: scale.name)
levels = st.floats(5, 45)
spreads = st.floats(0.05, 12)
shares = st.floats(0.02, 0.98)


def grid_of(scale):
    return np.arange(scale.lowest, scale.highest + 1)


@EACH_SCALE
@given(level=levels, spread=spreads)
def test_at_the_level_three_quarters_are_satisfied(scale, level, spread):
    assert normal_sur(level, spread, level, scale=scale) == pytest.approx(0.75, abs=1e-15)
    assert normal_level(level, spread, 0.75, scale=scale) == level


@EACH_SCALE
@given(level=levels, spread=spreads, places=st.lists(st.floats(-20, 120), min_size=2))
def test_sur_is_a_share_that_never_rises_toward_the_worse(scale, level, spread, places):
    sur = normal_sur(level, spread, np.sort(places), scale=scale)
    assert sur.min() >= 0
    assert sur.max() <= 1
    steps = np.diff(sur)
    assert (steps <= 0).all() if scale.higher_is_worse else (steps >= 0).all()


@EACH_SCALE
@given(level=levels, spread=spreads, satisfied=shares)
def test_the_level_of_a_share_is_where_the_curve_has_it(scale, level, spread, satisfied):
    place = normal_level(level, spread, satisfied, scale=scale)
    assert normal_sur(level, spread, place, scale=scale) == pytest.approx(satisfied, abs=1e-9)


@EACH_SCALE
@given(level=levels, spread=spreads, one=shares, other=shares)
def test_more_satisfied_viewers_want_better_quality(scale, level, spread, one, other):
    fewer, more = sorted([one, other])
    at_fewer, at_more = (normal_level(level, spread, s, scale=scale) for s in (fewer, more))
    assert at_more <= at_fewer if scale.higher_is_worse else at_more >= at_fewer


@given(level=levels, spread=spreads, place=st.floats(-20, 120))
def test_the_curve_is_the_normal_distributions_around_the_mean_of_the_samples(level, spread, place):
    # The second implementation: SciPy's distribution at the mean 0.6745 spreads beyond the level.
    qp_mean, qf_mean = level + 0.67449 * spread, level - 0.67449 * spread
    assert sample_mean(level, spread) == pytest.approx(qp_mean, abs=1e-3)
    assert sample_mean(level, spread, scale=QF) == pytest.approx(qf_mean, abs=1e-3)
    assert normal_sur(level, spread, place) == pytest.approx(
        norm.sf(place, qp_mean, spread), abs=1e-4
    )
    assert normal_sur(level, spread, place, scale=QF) == pytest.approx(
        norm.cdf(place, qf_mean, spread), abs=1e-4
    )


@EACH_SCALE
@given(level=st.floats(20, 30), spread=st.floats(0.2, 4))
def test_on_whole_quantizers_it_is_the_curve_of_samples_drawn_from_it(scale, level, spread):
    # Quantiles in place of draws: as many viewers as make the empirical curve a smooth one.
    num_viewers = 4001
    mean = float(sample_mean(level, spread, scale=scale))
    ranks = (np.arange(num_viewers) + 0.5) / num_viewers
    samples = np.rint(norm.ppf(ranks, mean, spread)).astype(int)
    found = normal_sur_curve(level, spread, grid_of(scale), scale=scale)
    assert found.shape == grid_of(scale).shape
    np.testing.assert_allclose(found, sur_curve(samples, grid_of(scale), scale=scale), atol=1e-3)
    if abs(level - math.floor(level) - 0.5) > 0.01 * spread + 0.001:  # not on a rounding's edge
        assert level_at_sur(samples, scale=scale) == round(level)


@EACH_SCALE
@given(level=st.floats(20, 30), spread=st.floats(0.1, 3))
def test_whole_quantizers_keep_the_mean_of_the_samples(scale, level, spread):
    # Of whole numbers above 0 the mean is the sum over q = 0, 1, ... of the share above q.
    sur = normal_sur_curve(level, spread, np.arange(0, 101), scale=scale)
    above = sur if scale.higher_is_worse else 1 - sur
    shift = 0 if scale.higher_is_worse else -1  # the share at or above q is one more of them
    mean = above.sum() + shift
    tolerance = 0.5 * math.exp(-2 * (math.pi * spread) ** 2) + 1e-6  # a comb's own error
    assert mean == pytest.approx(float(sample_mean(level, spread, scale=scale)), abs=tolerance)


@EACH_SCALE
@given(level=levels, satisfied=shares, place=st.floats(0, 60))
def test_without_spread_all_notice_at_the_level(scale, level, satisfied, place):
    better = place < level if scale.higher_is_worse else place > level
    assert normal_sur(level, 0.0, place, scale=scale) == float(better)
    assert normal_sur(level, 0.0, level, scale=scale) == 0  # equality counts as noticed
    assert normal_level(level, 0.0, satisfied, scale=scale) == level
    if abs(place - level) > 0.01:
        for spread in (1e-4, 1e-313):  # the second is so small that its quotient overflows
            near = normal_sur(level, spread, place, scale=scale)
            assert near == pytest.approx(float(better), abs=1e-9)


@EACH_SCALE
def test_without_spread_whole_quantizers_are_those_of_viewers_who_agree(scale):
    for level in (24.0, 24.4, 23.6):
        agreed = sur_curve(np.array([24, 24, 24]), grid_of(scale), scale=scale)
        found = normal_sur_curve(level, 0.0, grid_of(scale), scale=scale)
        np.testing.assert_array_equal(found, agreed)


def test_levels_broadcast_and_a_missing_level_has_no_curve():
    many = normal_sur_curve(np.array([[24.0, np.nan]]), np.array([[2.0, 3.0]]), grid_of(QP))
    assert many.shape == (1, 2, 51)
    np.testing.assert_array_equal(many[0, 0], normal_sur_curve(24.0, 2.0, grid_of(QP)))
    assert np.isnan(many[0, 1]).all()


def test_an_invalid_spread_or_sur_is_refused():
    with pytest.raises(ValueError, match=r"0 or more, got -0\.5"):
        normal_sur(24.0, [1.0, -0.5], 20.0)
    for share in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"sur must be in \(0, 1\)"):
            normal_level(24.0, 2.0, share)
