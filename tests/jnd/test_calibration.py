"""Calibrated intervals: how many levels of clips of new groups they contain."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from laser_dist.jnd.calibration import Residuals, half_widths, held_out_half_widths

# Clips of each of VideoSet's 11 films, and a few groups of equal size.
FILMS = (31, 59, 11, 14, 5, 15, 13, 10, 9, 13, 40)
SIZES = {"films": FILMS, "15 groups": (40,) * 15, "4 groups": (40,) * 4, "2 groups": (40,) * 2}

each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def group_ids(sizes):
    return [f"g{group:02d}" for group, size in enumerate(sizes) for _ in range(size)]


def correlated(sizes, correlation, rng):
    """Return [N, 2] normal errors, of which the second level has twice the spread."""
    common = np.repeat(rng.normal(size=(len(sizes), 2)), sizes, axis=0)
    own = rng.normal(size=common.shape)
    mixed = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    return mixed * np.array([1.0, 2.0])


@each_size
@pytest.mark.parametrize("correlation", [0.05, 0.3])
def test_intervals_contain_the_levels_of_new_groups(sizes, correlation):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(150):
        widths = half_widths(correlated(sizes, correlation, rng), group_ids(sizes))
        inside.append((np.abs(correlated((25,) * 20, correlation, rng)) <= widths).mean(axis=0))
    assert np.all((np.mean(inside, axis=0) > 0.86) & (np.mean(inside, axis=0) < 0.94))


@pytest.mark.parametrize("correlation", [0.05, 0.15])
def test_intervals_from_other_folds_contain_the_levels_of_a_fold(correlation):
    # 600 clips of 15 photographs in four folds, as in the demo.
    rng, sizes = np.random.default_rng(3), (40,) * 15
    errors, groups = correlated(sizes, correlation, rng), group_ids(sizes)
    folds = np.array([int(group[1:]) % 4 for group in groups])
    widths = held_out_half_widths(errors, groups, folds)
    assert np.all(np.abs(np.mean(np.abs(errors) <= widths, axis=0) - 0.9) < 0.04)
    for fold in range(4):
        others = np.flatnonzero(folds != fold)
        expected = half_widths(errors[others], [groups[row] for row in others])
        np.testing.assert_array_equal(
            widths[folds == fold], np.tile(expected, (len(groups) - len(others), 1))
        )


def test_one_group_of_large_errors_widens_the_interval():
    # The plain 90% quantile of all clips is 1; it contains none of the fourth group.
    errors = np.concatenate([np.ones(93), np.full(7, 5.0)])[:, None]
    assert half_widths(errors, group_ids([31, 31, 31, 7])) == [1]
    errors = np.concatenate([np.ones(60), np.full(20, 5.0)])[:, None]
    assert half_widths(errors, group_ids([20, 20, 20, 20])) == [5]


def test_missing_levels_are_left_out_and_one_group_has_no_interval():
    errors = np.random.default_rng(0).normal(size=(40, 3))
    groups = group_ids([10] * 4)
    errors[:10, 1] = errors[10:, 2] = np.nan
    first, second, third = half_widths(errors, groups)
    assert first == half_widths(errors[:, :1], groups)
    assert second == half_widths(errors[10:, 1:2], groups[10:])
    assert np.isnan(third)


def test_the_share_above_a_margin_counts_the_clips_with_a_level():
    errors = ((2.0, None, None), (0.5, 1.0, None), (-3.0, 3.0, None), (1.0, 1.5, None))
    residuals = Residuals(errors=errors, groups=(0, 0, 1, 1))
    np.testing.assert_allclose(residuals.shares_above(1.0), [1 / 4, 2 / 3, np.nan])


@given(hnp.arrays(np.float64, (24, 2), elements=st.floats(-30, 30)))
def test_a_half_width_is_one_of_the_errors_and_ignores_their_sign(errors):
    groups = group_ids([6] * 4)
    widths = half_widths(errors, groups)
    for width, column in zip(widths, errors.T, strict=True):
        assert width in np.abs(column)
    np.testing.assert_array_equal(half_widths(-errors, groups), widths)


@each_size
@pytest.mark.parametrize("correlation", [0.05, 0.3])
def test_a_margin_leaves_a_tenth_of_the_clips_of_a_new_group(sizes, correlation):
    rng, shares = np.random.default_rng(0), []
    bias, spreads = 0.7, np.array([1.0, 2.0])
    for _ in range(150):
        errors = correlated(sizes, correlation, rng) + bias
        margins = Residuals.of_clips(errors, group_ids(sizes)).margins(0.9)
        # What a clip of another group has in common with its group is a normal value, too.
        shares.append(norm.cdf(margins, loc=bias, scale=spreads))
    assert 0.86 <= np.mean(shares) <= 0.955


def test_too_few_clips_have_no_margin():
    assert np.isnan(Residuals.of_clips(np.zeros((3, 1)), ["a", "b", "c"]).margins(0.9)).all()


def test_residuals_survive_as_plain_values():
    errors = np.array([[0.126, np.nan], [-1.0, 2.5]])
    residuals = Residuals.of_clips(errors, ["b", "a"])
    assert residuals.errors == ((0.13, None), (-1.0, 2.5))
    plain = json.loads(json.dumps(dataclasses.asdict(residuals)))
    assert Residuals.of(plain) == residuals
    for wrong in (
        {"errors": [[1.0]], "groups": [0, 1]},
        {"errors": [[1.0], [1.0, 2.0]], "groups": [0, 1]},
        {"errors": [[float("inf")]], "groups": [0]},
        {"errors": [], "groups": []},
    ):
        with pytest.raises(ValueError, match="residuals must"):
            Residuals.of(wrong)


@pytest.mark.parametrize(("coverage", "least"), [(0.9, 9), (0.5, 1), (0.8, 4)])
def test_fewer_clips_than_any_interval_needs_have_none(coverage, least):
    """The largest of n exchangeable errors is above the next one with probability n / (n + 1)."""
    rng = np.random.default_rng(0)
    for num in range(2, 12):
        errors, groups = rng.normal(size=(num, 1)), [f"g{i}" for i in range(num)]
        (found,) = half_widths(errors, groups, coverage=coverage)
        assert np.isfinite(found) == (num >= least)
