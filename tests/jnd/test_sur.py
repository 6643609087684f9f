import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.jnd.scale import QF
from laser_dist.jnd.sur import level_at_sur, sur_curve

qps = st.integers(0, 51)
panels = st.lists(qps, min_size=1, max_size=40)
ALL_QPS = np.arange(-1, 53)


def curve(samples, grid=ALL_QPS):
    return sur_curve(np.array(samples), np.asarray(grid))


def test_a_viewer_is_satisfied_below_the_qp_that_they_noticed():
    # Noticed at 30, 32, 32, 40: at 29 nobody has, at 30 one of four, at 32 three, at 40 all.
    assert curve([32, 40, 30, 32], [29, 30, 31, 32, 39, 40]).tolist() == [
        1,
        0.75,
        0.75,
        0.25,
        0.25,
        0,
    ]


@given(panels, st.sets(qps))
def test_sur_is_the_share_counted_viewer_by_viewer(samples, grid):
    grid = sorted(grid)
    result = sur_curve(np.array(samples), np.array(grid, dtype=np.int64))
    assert result.shape == (len(grid),)
    assert result.dtype == np.float64
    assert result.tolist() == [sum(s > q for s in samples) / len(samples) for q in grid]


@given(panels)
def test_sur_falls_from_one_to_zero_and_never_rises(samples):
    result = curve(samples)
    assert result[0] == 1.0
    assert result[-1] == 0.0
    assert np.all(np.diff(result) <= 0)


@given(panels, st.randoms())
def test_the_order_of_viewers_does_not_matter(samples, random):
    shuffled = random.sample(samples, len(samples))
    assert curve(shuffled).tolist() == curve(samples).tolist()
    assert level_at_sur(shuffled) == level_at_sur(samples)


@given(panels, st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.75, 0.8, 0.9, 0.99]))
def test_level_is_the_first_qp_at_which_sur_has_fallen_to_the_share(samples, satisfied):
    sur = curve(samples)
    level = level_at_sur(samples, satisfied)
    assert level == ALL_QPS[sur <= satisfied][0]
    assert sur[ALL_QPS == level - 1] > satisfied
    assert level in samples


@given(panels)
def test_level_is_numpys_inverted_cdf_percentile(samples):
    assert level_at_sur(samples) == np.percentile(samples, 25, method="inverted_cdf")


def test_level_of_thirty_viewers_is_the_eighth_lowest():
    # 7 of 30 have noticed below it (23 %), with the eighth 27 %: the first share to reach 25 %.
    level = level_at_sur(np.arange(20, 50)[::-1])
    assert level == 27
    assert type(level) is int


def test_share_is_taken_as_its_decimal():
    # (1 - 0.7) * 30 = 9.000000000000002 in floating point, which would ask for a tenth viewer.
    assert level_at_sur(list(range(1, 31)), sur=0.7) == 9


qfs = st.integers(1, 99)
QF_PANELS = st.lists(qfs, min_size=1, max_size=40)
ALL_QFS = np.arange(0, 101)


@given(QF_PANELS)
def test_in_quality_factors_sur_is_the_share_whose_sample_is_below(samples):
    sur = sur_curve(np.array(samples), ALL_QFS, scale=QF)
    assert sur.tolist() == [sum(s < q for s in samples) / len(samples) for q in ALL_QFS]
    assert (sur[0], sur[-1]) == (0.0, 1.0)
    assert np.all(np.diff(sur) >= 0)


@given(QF_PANELS, st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.75, 0.9]))
def test_in_quality_factors_the_level_is_the_last_at_which_the_share_has_noticed(
    samples, satisfied
):
    level = level_at_sur(samples, satisfied, scale=QF)
    sur = sur_curve(np.array(samples), ALL_QFS, scale=QF)
    assert level == ALL_QFS[sur <= satisfied][-1]
    assert sur[level + 1] > satisfied
    assert level in samples


def test_level_of_thirty_viewers_is_the_eighth_highest_quality_factor():
    # At 43 seven of 30 have noticed (43 to 49, 23 %); the eighth makes it 27 %, 25 % at least.
    assert level_at_sur(np.arange(20, 50), scale=QF) == 42


@pytest.mark.parametrize(
    ("samples", "grid", "text"),
    [
        ([], [1, 2], "at least one viewer"),
        ([30], [2, 2], "strictly ascending"),
        ([30], [3, 2], "strictly ascending"),
        ([30.5], [1, 2], "must be integers, got float64"),
        ([[30]], [1, 2], r"must have one axis, got shape \(1, 1\)"),
    ],
)
def test_sur_curve_refuses_invalid_arrays(samples, grid, text):
    with pytest.raises(ValueError, match=text):
        sur_curve(np.array(samples), np.array(grid))


@pytest.mark.parametrize(
    ("samples", "satisfied", "text"),
    [
        ([], 0.75, "at least one viewer"),
        ([30], 1.0, r"\[0, 1\), got 1.0"),
        ([30], -0.1, r"sur must be in \[0, 1\)"),
        ([30], float("nan"), "got nan"),
        ([30.5], 0.75, "integers"),
    ],
)
def test_level_at_sur_refuses_invalid_arguments(samples, satisfied, text):
    with pytest.raises(ValueError, match=text):
        level_at_sur(samples, satisfied)
