import numpy as np
import pytest
from evaluation_fakes import make_sources, with_gaps

from laser_dist.evaluation.baselines import SourceTable, constant_predictions, ridge_predictions


def abs_error(predicted, sources):
    return np.abs(predicted - sources.levels).mean()


def test_constant_is_the_best_constant_on_its_training_sources():
    train = make_sources(31)
    own = abs_error(constant_predictions(train, 31), train)
    for shift in (-0.5, 0.5):
        assert own <= abs_error(constant_predictions(train, 31) + shift, train)


def test_ridge_finds_levels_that_are_linear_in_si_and_ti():
    train, test = make_sources(60, seed=1, noise=0), make_sources(20, seed=2, first=101, noise=0)
    predicted = ridge_predictions(train, test.activity)
    # The levels span 7 QP and more; what is left is what the smallest penalty costs.
    assert np.abs(predicted - test.levels).max() < 0.01
    assert abs_error(predicted, test) < 0.1 * abs_error(constant_predictions(train, 20), test)


def test_ridge_beats_the_constant_under_viewers_noise():
    train, test = make_sources(60, seed=1), make_sources(40, seed=2, first=101)
    ridge = abs_error(ridge_predictions(train, test.activity), test)
    assert ridge < 0.9 * abs_error(constant_predictions(train, 40), test)


def part(sources, rows, levels):
    """Of these sources ([N] bool) these levels (a slice)."""
    return SourceTable(
        source_ids=tuple(np.array(sources.source_ids)[rows]),
        group_ids=tuple(np.array(sources.group_ids)[rows]),
        levels=sources.levels[rows, levels],
        activity=sources.activity[rows],
    )


def test_each_level_is_fitted_on_the_sources_that_have_it():
    train, test = make_sources(40, seed=1), make_sources(7, seed=2, first=101)
    gappy = with_gaps(train, *((row, 2) for row in range(0, 40, 3)))
    there = np.arange(40) % 3 != 0
    first_two, third = part(train, there | True, slice(0, 2)), part(train, there, slice(2, 3))
    for predicted_by in (
        lambda table: constant_predictions(table, 7),
        lambda table: ridge_predictions(table, test.activity),
    ):
        expected = np.hstack([predicted_by(first_two), predicted_by(third)])
        np.testing.assert_array_equal(predicted_by(gappy), expected)


@pytest.mark.parametrize("num_sources", [1, 2])
def test_one_group_is_enough_to_answer(num_sources):
    train = make_sources(num_sources, first=3)
    assert len(set(train.group_ids)) == 1
    assert np.isfinite(ridge_predictions(train, make_sources(4).activity)).all()
