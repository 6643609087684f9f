import numpy as np
import pytest
from evaluation_fakes import make_sources

from laser_dist.evaluation.baselines import constant_predictions, ridge_predictions


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


@pytest.mark.parametrize("num_sources", [1, 2])
def test_one_group_is_enough_to_answer(num_sources):
    train = make_sources(num_sources, first=3)
    assert len(set(train.group_ids)) == 1
    assert np.isfinite(ridge_predictions(train, make_sources(4).activity)).all()
