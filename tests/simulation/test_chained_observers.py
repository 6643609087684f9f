from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.simulation.chained_observers import MAX_LEVELS, judge_image
from laser_dist.simulation.observers import Panel

PANEL = Panel()
EXACT = Panel(num_viewers=2, viewer_spread=0.0, trial_spread=0.0, increment_spread=0.0)
GRID = np.array([90, 70, 50, 35, 25, 15, 8, 3, 1])
# About what an image of the synthetic dataset measures: threshold near quality factor 30.
TYPICAL = np.exp((30 - GRID) / 45)

CURVES = st.lists(st.floats(0.0, 50.0), min_size=len(GRID), max_size=len(GRID)).map(np.array)


@given(visibilities=CURVES, seed=st.integers(0, 100))
def test_every_viewer_has_a_chain_that_descends_within_the_factors(visibilities, seed):
    chains = judge_image(GRID, visibilities, PANEL, image_seed=seed)
    assert len(chains) == PANEL.num_viewers
    for chain in chains:
        assert 1 <= len(chain) <= MAX_LEVELS
        assert list(chain) == sorted(set(chain), reverse=True)
        assert set(chain) <= set(range(1, 100))


@given(visibilities=CURVES, factor=st.floats(1.01, 4.0))
def test_errors_that_are_easier_to_see_are_noticed_no_later(visibilities, factor):
    hidden = judge_image(GRID, visibilities, PANEL, image_seed=1)
    shown = judge_image(GRID, visibilities * factor, PANEL, image_seed=1)
    assert all(a[0] >= b[0] for a, b in zip(shown, hidden, strict=True))


def test_the_panel_is_deterministic_and_an_images_trials_are_its_own():
    first = judge_image(GRID, TYPICAL, PANEL, image_seed=7)
    assert judge_image(GRID, TYPICAL, PANEL, image_seed=7) == first
    assert judge_image(GRID, TYPICAL, PANEL, image_seed=8) != first
    assert judge_image(GRID, TYPICAL, replace(PANEL, seed=1), image_seed=7) != first


def test_each_viewer_continues_from_their_own_level():
    # Visibility 2^((60 - q) / 10), thresholds without any scatter: 1 is reached at 60; then
    # 1 + 1 = 2 at 50; 2 + sqrt(2) = 2^1.77 at 60 - 17.7, so 42 is the first; from
    # v = 2^1.8 = 3.48 on, v + sqrt(v) = 5.35 = 2^2.42, so 35; 5.66 + 2.38 = 8.04 = 2^3.007, so 29;
    # 8.57 + 2.93 = 11.50 = 2^3.52, so 24; 12.13 + 3.48 = 15.61 = 2^3.96, so 20. The eighth from
    # 16 is 16 + 4 = 2^4.32, so 16.
    panel = replace(EXACT, increment=1.0, growth=0.5)
    chains = judge_image(GRID, np.exp2((60 - GRID) / 10), panel, image_seed=0)
    assert chains == ((60, 50, 42, 35, 29, 24, 20, 16),) * 2


def test_a_more_sensitive_viewer_starts_higher_and_has_more_levels():
    scattered = replace(EXACT, num_viewers=30, viewer_spread=0.3)
    chains = judge_image(GRID, TYPICAL, scattered, image_seed=0)
    best, worst = (int(at(scattered.log_thresholds())) for at in (np.argmin, np.argmax))
    assert chains[best][0] > chains[worst][0]
    assert len(chains[best]) > len(chains[worst])


def test_a_chain_ends_when_no_difference_is_visible():
    # Reaches 1.5 at factor 1: the first level is there, and no increment of 1 after it.
    chains = judge_image(np.array([99, 1]), np.array([0.1, 1.5]), EXACT, image_seed=0)
    short = judge_image(
        np.array([99, 1]), np.array([0.1, 1.5]), replace(EXACT, increment=1.0), image_seed=0
    )
    assert all(len(chain) == 1 for chain in short)
    assert [chain[0] for chain in chains] == [chain[0] for chain in short]


def test_invisible_errors_give_factor_1():
    chains = judge_image(GRID, np.zeros(len(GRID)), PANEL, image_seed=0)
    assert set(chains) == {(1,)}


@pytest.mark.parametrize("qfs", [[50], [20, 50], [50, 50], [100, 50], [50, 0]])
def test_an_invalid_grid_is_refused(qfs):
    with pytest.raises(ValueError, match=r"must be two or more, ascending within 1\.\.99"):
        judge_image(np.array(qfs), np.ones(len(qfs)), PANEL, image_seed=0)
