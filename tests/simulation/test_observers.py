from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.jnd.sur import level_at_sur
from laser_dist.simulation.observers import Panel, first_noticed, judge_clip, visibility_curve

PANEL = Panel()
GRID = np.array([16, 20, 24, 27, 30, 33, 36, 40, 45])
# Similar to a clip of the synthetic dataset: threshold reached near QP 29, doubled every 9 QP.
TYPICAL = np.exp((GRID - 29) / 13)

CURVES = st.lists(st.floats(0.0, 50.0), min_size=len(GRID), max_size=len(GRID)).map(np.array)


@given(visibilities=CURVES, seed=st.integers(0, 100))
def test_levels_ascend_and_each_is_the_next_ones_anchor(visibilities, seed):
    judgments = judge_clip(GRID, visibilities, PANEL, clip_seed=seed)
    assert len(judgments) == 3
    assert [j.anchor_qp for j in judgments] == [0, *(j.jnd_qp for j in judgments[:2])]
    for judgment in judgments:
        assert judgment.jnd_qp > judgment.anchor_qp or judgment.anchor_qp == 51
        assert judgment.jnd_qp == level_at_sur(judgment.samples)
        assert len(judgment.samples) == 30
        assert min(judgment.samples) > judgment.anchor_qp or judgment.anchor_qp == 51
        assert max(judgment.samples) <= 51


@given(visibilities=CURVES, factor=st.floats(1.01, 4.0))
def test_errors_that_are_easier_to_see_are_noticed_no_later(visibilities, factor):
    hidden = judge_clip(GRID, visibilities, PANEL, clip_seed=1)[0]
    shown = judge_clip(GRID, visibilities * factor, PANEL, clip_seed=1)[0]
    assert all(a <= b for a, b in zip(shown.samples, hidden.samples, strict=True))


def test_the_panel_is_deterministic_and_a_clips_trials_are_its_own():
    first = judge_clip(GRID, TYPICAL, PANEL, clip_seed=7)
    assert judge_clip(GRID, TYPICAL, PANEL, clip_seed=7) == first
    assert judge_clip(GRID, TYPICAL, PANEL, clip_seed=8) != first
    assert judge_clip(GRID, TYPICAL, replace(PANEL, seed=1), clip_seed=7) != first


def test_viewers_keep_their_sensitivity_from_clip_to_clip():
    samples = np.array(
        [judge_clip(GRID, TYPICAL, PANEL, clip_seed=i)[0].samples for i in range(200)]
    )
    # The mean over many trials leaves the viewer's own threshold: 0.20 in log against 0.15 / 14.
    correlation = np.corrcoef(samples.mean(axis=0), PANEL.log_thresholds())[0, 1]
    assert correlation > 0.98


def test_samples_scatter_like_videosets():
    judgments = [judge_clip(GRID, TYPICAL, PANEL, clip_seed=i) for i in range(100)]
    spreads = np.mean([[np.std(j.samples, ddof=1) for j in three] for three in judgments], axis=0)
    # VideoSet's samples have standard deviations of 3 QP and more; a single curve gives its share.
    assert np.all(spreads > 1.8)
    assert np.all(spreads < 4.5)


def test_without_spread_all_samples_are_where_the_curve_reaches_the_threshold():
    exact = Panel(viewer_spread=0.0, trial_spread=0.0, increment_spread=0.0, increment=1.0)
    levels = [j.jnd_qp for j in judge_clip(GRID, np.exp2((GRID - 20) / 6), exact, clip_seed=0)]
    # Visibility 2^((q - 20) / 6): 1 at QP 20. Against visibility v the next is v + sqrt(v): 2 at
    # QP 26; then 2 + 1.414 = 3.414 = 2^1.77, at 20 + 10.6: QP 31 is the first above.
    assert levels == [20, 26, 31]


def test_the_curve_is_exact_at_measured_qps_and_extrapolated_outside():
    values = np.exp((GRID - 30) / 10.0)
    curve = visibility_curve(GRID, values)
    np.testing.assert_allclose(curve[1:], np.exp((np.arange(1, 52) - 30) / 10.0))
    assert curve[0] == 0.0


@given(CURVES)
def test_the_curve_never_falls(visibilities):
    curve = visibility_curve(GRID, visibilities)
    assert curve.shape == (52,)
    assert np.all(np.isfinite(curve))
    assert np.all(np.diff(curve) >= 0)


def test_invisible_errors_give_the_last_qp():
    judgments = judge_clip(GRID, np.zeros(len(GRID)), PANEL, clip_seed=0)
    assert [set(j.samples) for j in judgments] == [{51}] * 3


def test_no_sample_is_at_or_below_the_anchor():
    curve = np.linspace(0.0, 51.0, 52)
    noticed = first_noticed(curve, np.array([1.0, 9.5, 10.0, 10.5, 90.0]), anchor_qp=10)
    np.testing.assert_array_equal(noticed, [11, 11, 11, 11, 51])
    np.testing.assert_array_equal(first_noticed(curve, np.array([3.0]), anchor_qp=51), [51])


@pytest.mark.parametrize(
    ("qps", "count"), [([], 0), ([20], 1), ([20, 20], 2), ([30, 20], 2), ([0, 20], 2), ([1, 52], 2)]
)
def test_an_invalid_grid_is_refused(qps, count):
    with pytest.raises(ValueError, match=r"must be two or more, ascending within 1\.\.51"):
        visibility_curve(np.array(qps, np.int64), np.ones(count))


def test_a_missing_visibility_is_refused():
    with pytest.raises(ValueError, match="2 quantizers but 1 visibilities"):
        visibility_curve(np.array([20, 30]), np.ones(1))


@pytest.mark.parametrize(
    "change", [{"num_viewers": 1}, {"increment": 0.0}, {"increment_spread": -0.1}, {"seed": -1}]
)
def test_an_invalid_panel_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Panel(**change)


def test_the_curve_supports_other_axes():
    values = np.exp(np.array([10, 50, 99]) / 30)
    curve = visibility_curve(np.array([10, 50, 99]), values, coarsest=99)
    np.testing.assert_allclose(curve[1:], np.exp(np.arange(1, 100) / 30))
    with pytest.raises(ValueError, match=r"ascending within 1\.\.99"):
        visibility_curve(np.array([10, 100]), np.ones(2), coarsest=99)
