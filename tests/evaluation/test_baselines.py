from dataclasses import replace

import numpy as np
import pytest
from evaluation_fakes import make_curve, make_sources, with_gaps

from laser_dist.evaluation.baselines import (
    baseline_predictions,
    constant_half_widths,
    constant_predictions,
    ridge_predictions,
    tree_predictions,
)
from laser_dist.evaluation.dataset import SourceTable
from laser_dist.jnd.scale import QP

pytestmark = pytest.mark.slow


def abs_error(predicted, sources):
    return np.abs(predicted - sources.levels).mean()


def test_no_other_constant_has_a_lower_training_error():
    train = make_sources(31)
    own = abs_error(constant_predictions(train, 31), train)
    for shift in (-0.5, 0.5):
        assert own <= abs_error(constant_predictions(train, 31) + shift, train)


def test_ridge_recovers_levels_that_are_linear_in_si_and_ti():
    train, test = make_sources(60, seed=1, noise=0), make_sources(20, seed=2, first=101, noise=0)
    predicted = ridge_predictions(train, test.activity)
    # The levels span more than 7 QP; the rest is the effect of the smallest penalty.
    assert np.abs(predicted - test.levels).max() < 0.01
    assert abs_error(predicted, test) < 0.1 * abs_error(constant_predictions(train, 20), test)


def test_ridge_has_a_lower_error_than_the_constant_with_noisy_levels():
    train, test = make_sources(60, seed=1), make_sources(40, seed=2, first=101)
    ridge = abs_error(ridge_predictions(train, test.activity), test)
    assert ridge < 0.9 * abs_error(constant_predictions(train, 40), test)


def test_each_level_is_fitted_on_the_sources_that_have_it():
    train, test = make_sources(40, seed=1), make_sources(7, seed=2, first=101)
    gappy = with_gaps(train, *((row, 2) for row in range(0, 40, 3)))
    present = np.arange(40) % 3 != 0
    first_two = train.select(np.ones(40, bool), np.array([True, True, False]))
    third = train.select(present, np.array([False, False, True]))
    for predict in (
        lambda table: constant_predictions(table, 7),
        lambda table: ridge_predictions(table, test.activity),
        lambda table: tree_predictions(table, test.activity),
    ):
        expected = np.hstack([predict(first_two), predict(third)])
        np.testing.assert_array_equal(predict(gappy), expected)


@pytest.mark.parametrize("num_sources", [1, 2])
def test_one_group_is_enough_to_fit(num_sources):
    train = make_sources(num_sources, first=3)
    assert len(set(train.group_ids)) == 1
    assert np.isfinite(ridge_predictions(train, make_sources(4).activity)).all()
    assert np.isfinite(tree_predictions(train, make_sources(4).activity)).all()


def test_trees_fit_a_step_that_a_line_cannot():
    train, test = make_sources(60, seed=1), make_sources(40, seed=2, first=101)

    def with_step(table):
        inside = np.abs(table.activity[:, :1] - 55) < 18  # SI is 20 to 90
        return replace(table, levels=25 + 6.0 * inside + np.array([0.0, 4, 8]))

    train, test = with_step(train), with_step(test)
    trees = abs_error(tree_predictions(train, test.activity), test)
    assert trees < 0.5 * abs_error(ridge_predictions(train, test.activity), test)


def test_trees_stay_close_to_the_constant_if_activity_carries_no_information():
    train, test = make_sources(60, seed=1), make_sources(200, seed=2, first=101)
    rng = np.random.default_rng(5)
    train, test = (
        replace(table, levels=rng.normal(30, 2, size=table.levels.shape)) for table in (train, test)
    )
    trees = abs_error(tree_predictions(train, test.activity), test)
    assert trees < 1.05 * abs_error(constant_predictions(train, 200), test)


def test_the_intervals_of_the_constant_contain_most_levels_of_new_groups():
    train, test = make_sources(90, seed=1), make_sources(400, seed=2, first=401)
    widths = constant_half_widths(train)
    errors = np.abs(constant_predictions(train, 400) - test.levels)
    assert np.all(np.abs((errors <= widths).mean(axis=0) - 0.9) < 0.04)
    # No level: no interval, and no effect on the others.
    gappy = with_gaps(train, *((row, 2) for row in range(90)))
    np.testing.assert_array_equal(constant_half_widths(gappy), [*widths[:2], np.nan])


def test_one_encode_predicts_levels_that_follow_from_the_size_of_the_clip():
    train, test = make_sources(60, seed=1), make_sources(40, seed=2, first=101)
    # The size of a clip says how far its levels are from the middle; SI and TI say nothing.
    curves = {}
    for table in (train, test):
        sizes = np.exp2((table.levels[:, :1] - 28) / 2)
        for source_id, size in zip(table.source_ids, sizes, strict=True):
            curves[source_id] = replace(make_curve(), num_bits=make_curve().num_bits * size)
    train, test = (replace(table, activity=np.ones_like(table.activity)) for table in (train, test))
    found = baseline_predictions(train, test, curves, QP)
    assert list(found) == ["constant", "si-ti-ridge", "si-ti-trees", "one-encode"]
    assert abs_error(found["one-encode"], test) < 0.7 * abs_error(found["constant"], test)
    assert abs_error(found["si-ti-trees"], test) > 0.95 * abs_error(found["constant"], test)


def test_one_encode_is_near_the_constant_if_no_size_is_known():
    train, test = make_sources(60, seed=1), make_sources(40, seed=2, first=101)
    unknown = replace(make_curve(), num_bits=np.full(51, np.nan))
    curves = dict.fromkeys((*train.source_ids, *test.source_ids), unknown)
    found = baseline_predictions(train, test, curves, QP)
    assert np.ptp(found["one-encode"], axis=0).max() == 0
    assert np.abs(found["one-encode"] - found["constant"]).max() < 1


def test_trees_are_deterministic():
    train, test = make_sources(30, seed=1), make_sources(10, seed=2, first=101)
    one, other = (tree_predictions(train, test.activity) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_cross_validation_does_not_split_groups():
    # Six equal clips per recording; the levels of recordings are random. Folds of single clips
    # would choose trees that recognize each recording by its activity.
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(10), 6)
    levels = rng.normal(30, 3, size=(10, 1))[groups] + np.array([0.0, 4, 8])
    activity = rng.uniform(20, 90, size=(10, 2))[groups]
    ids = tuple(f"videoSRC{number:03d}" for number in range(60))
    train = SourceTable(ids, tuple(f"photo{group}" for group in groups), levels, activity)
    own_groups = replace(train, group_ids=ids)
    activity = rng.uniform(20, 90, size=(50, 2))
    by_recording, by_clip = (
        np.ptp(tree_predictions(table, activity)[:, 0]) for table in (train, own_groups)
    )
    assert by_recording < 0.6 * by_clip
