"""Which rungs stay, by formula; and where segments start."""

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.encoding.ladder import (
    Candidate,
    Limits,
    Reason,
    default_heights,
    segment_starts,
    select_rungs,
    share_who_see,
    size_at,
    split_at,
)
from laser_dist.encoding.plan import plan_of
from laser_dist.jnd.scale import QP
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.predict import ClipPrediction, ScenePrediction

LEVELS = (22.0, 27.0, 31.0)


def scene(levels, spreads, start_s, end_s):
    return ScenePrediction(
        start_s=start_s,
        end_s=end_s,
        frames=range(round(25 * start_s), round(25 * end_s)),
        levels=np.array(levels, np.float32),
        spreads=None if spreads is None else np.array(spreads, np.float32),
        levels_per_frame=np.array([levels], np.float32),
        timestamps_s=(start_s,),
        levels_at_sur=np.array(levels, np.float64),
    )


def prediction(*scenes):
    has_spread = scenes[0].spreads is not None
    spec = PredictorSpec(
        variant="mj-lat", levels=(1, 2, 3), scale="QP", simulated=True, spread=has_spread
    )
    return ClipPrediction(
        clip="a.mp4", spec=spec, scale=QP, scenes=scenes, sur=0.75, model="m", runtime="none"
    )


def one_scene(levels=LEVELS, spreads=(3.0, 3.0, 3.0)):
    return prediction(scene(levels, spreads, 0.0, 5.0))


def candidates(found, *heights):
    return [
        Candidate(
            width=2 * height,
            height=height,
            plan=plan_of(found, level, margin=0.0),
            prediction=found,
        )
        for height in heights
        for level in ("jnd3", "jnd1", "jnd2")
    ]


def rates(**kbps):
    """Return the bit rate of a candidate: "p720_jnd1=900" for 720p-jnd1."""
    table = {name[1:].replace("_", "p-"): value for name, value in kbps.items()}
    return lambda candidate: table[candidate.name]


def by_qp(candidate):
    """Bits that halve each 6 QP, and are as many as there are pixels."""
    return candidate.width * candidate.height / 2 ** (candidate.mean_qp / 6)


def outcomes(rungs):
    return {rung.candidate.name: rung.dropped for rung in rungs}


def noticed_by(level, spread, qp):
    """Share of viewers whose point is at an integer QP or finer: 25% of them up to the level."""
    mean = level + NormalDist().inv_cdf(0.75) * spread
    return NormalDist(mean, spread).cdf(qp + 0.5)


@given(
    st.lists(st.floats(15, 45), min_size=3, max_size=3),
    st.lists(st.floats(0.5, 8), min_size=3, max_size=3),
    st.tuples(st.integers(1, 51), st.integers(1, 51)),
)
def test_a_viewer_sees_a_difference_if_a_point_is_between_the_quantizers(levels, spreads, pair):
    nobody = math.prod(
        1 - abs(noticed_by(level, spread, pair[1]) - noticed_by(level, spread, pair[0]))
        for level, spread in zip(levels, spreads, strict=True)
    )
    found = share_who_see(one_scene(levels, spreads), [pair[0]], [pair[1]])
    assert found == pytest.approx(1 - nobody, abs=1e-5)  # the levels are float32


def test_scenes_count_by_their_time():
    spreads = (3.0, 3.0, 3.0)
    first, second = scene(LEVELS, spreads, 0.0, 1.0), scene(LEVELS, spreads, 1.0, 5.0)
    alone = share_who_see(prediction(first), [22], [27])
    both = share_who_see(prediction(first, second), [22, 30], [27, 30])
    assert both == pytest.approx(alone / 5)


def test_levels_that_few_viewers_tell_apart_are_one_rung():
    # Of viewers whose points spread by 8 QP, 2 QP separate about 5% per level.
    near = candidates(one_scene((22.0, 23.0, 24.0), (8.0, 8.0, 8.0)), 720)
    assert outcomes(select_rungs(near, by_qp)) == {
        "720p-jnd1": None,
        "720p-jnd2": Reason.LESS_THAN_A_JND,
        "720p-jnd3": Reason.LESS_THAN_A_JND,
    }
    far = candidates(one_scene(), 720)
    assert set(outcomes(select_rungs(far, by_qp)).values()) == {None}


def test_a_rung_is_compared_with_the_last_one_that_stayed():
    found = one_scene((22.0, 23.0, 24.0), (5.0, 5.0, 5.0))
    first, second, third = select_rungs(candidates(found, 720), by_qp)
    assert [first.dropped, second.dropped, third.dropped] == [None, Reason.LESS_THAN_A_JND, None]
    assert first.share is None
    assert second.share == share_who_see(found, [22], [23]) < 0.25
    assert third.share == share_who_see(found, [22], [24]) > 0.25


def test_without_spreads_only_equal_quantizers_are_dropped():
    rungs = select_rungs(candidates(one_scene((22.0, 22.9, 23.0), None), 720), by_qp)
    assert [rung.dropped for rung in rungs] == [None, Reason.LESS_THAN_A_JND, None]
    assert {rung.share for rung in rungs} == {None}


def test_what_is_dropped_by_viewers_is_not_encoded():
    encoded = []

    def encode(candidate):
        encoded.append(candidate.name)
        return 1000.0

    rungs = select_rungs(candidates(one_scene((22.0, 22.0, 27.0)), 720), encode)
    assert encoded == ["720p-jnd1", "720p-jnd3"]
    assert [rung.bitrate_kbps for rung in rungs] == [1000.0, None, 1000.0]


def test_a_smaller_height_must_take_fewer_bits_than_the_last_rung_above():
    kbps = rates(
        p720_jnd1=900, p720_jnd2=500, p720_jnd3=300, p540_jnd1=600, p540_jnd2=300, p540_jnd3=200,
        p360_jnd1=250, p360_jnd2=150, p360_jnd3=90,
    )  # fmt: skip
    rungs = select_rungs(candidates(one_scene(), 360, 720, 540), kbps)
    kept = [rung.candidate.name for rung in rungs if rung.dropped is None]
    assert kept == [
        "720p-jnd1", "720p-jnd2", "720p-jnd3", "540p-jnd3", "360p-jnd2", "360p-jnd3",
    ]  # fmt: skip
    assert {rung.dropped for rung in rungs} == {None, Reason.NOT_FEWER_BITS}


@given(
    st.lists(st.floats(15, 45), min_size=3, max_size=3),
    st.lists(st.floats(0.5, 8), min_size=3, max_size=3),
    st.floats(0, 5000),
    st.floats(0, 5000),
    st.integers(1, 6),
    st.none() | st.integers(1, 5),
)
def test_kept_rungs_get_coarser_within_a_height_and_cheaper_over_all(
    levels, spreads, one, other, least, most
):
    least = min(least, most or least)
    limits = Limits(
        min_kbps=min(one, other), max_kbps=max(one, other), min_rungs=least, max_rungs=most
    )
    rungs = select_rungs(candidates(one_scene(levels, spreads), 360, 720), by_qp, limits)
    kept = [rung for rung in rungs if rung.dropped is None]
    assert 1 <= len(kept) <= (most or 6)
    rate = [rung.bitrate_kbps for rung in kept]
    assert all(above > below for above, below in zip(rate, rate[1:], strict=False))
    assert [rung.candidate.height for rung in kept] == sorted(
        (rung.candidate.height for rung in kept), reverse=True
    )
    if len(kept) > 1:
        assert all(limits.min_kbps <= each <= limits.max_kbps for each in rate)


def test_rungs_outside_the_caps_are_dropped_and_do_not_hide_others():
    # Viewers do not tell JND2 from JND1, which is above the cap.
    found = one_scene((22.0, 23.0, 30.0), (8.0, 8.0, 8.0))
    kbps = rates(p720_jnd1=900, p720_jnd2=800, p720_jnd3=300)
    rungs = select_rungs(candidates(found, 720), kbps, Limits(max_kbps=850, min_kbps=350))
    assert outcomes(rungs) == {
        "720p-jnd1": Reason.ABOVE_MAX_BITRATE,
        "720p-jnd2": None,
        "720p-jnd3": Reason.BELOW_MIN_BITRATE,
    }


@pytest.mark.parametrize(
    ("limits", "last"),
    [(Limits(max_kbps=100), "720p-jnd3"), (Limits(min_kbps=5000), "720p-jnd1")],
)
def test_the_rung_nearest_to_the_caps_stays_if_none_is_within(limits, last):
    kbps = rates(p720_jnd1=900, p720_jnd2=500, p720_jnd3=300)
    rungs = select_rungs(candidates(one_scene(), 720), kbps, limits)
    assert [(rung.candidate.name, rung.kept) for rung in rungs if rung.dropped is None] == [
        (last, Reason.NEAREST_TO_LIMITS)
    ]


def test_of_too_many_rungs_those_nearest_in_bits_are_dropped():
    kbps = rates(
        p720_jnd1=1000, p720_jnd2=900, p720_jnd3=500, p360_jnd1=300, p360_jnd2=250, p360_jnd3=100
    )
    for most, expected in (
        (4, [1000, 500, 300, 100]),  # 900 is 90% of 1000, and 250 is 83% of 300
        (2, [1000, 100]),
        (1, [1000]),
    ):
        rungs = select_rungs(candidates(one_scene(), 720, 360), kbps, Limits(max_rungs=most))
        assert [rung.bitrate_kbps for rung in rungs if rung.dropped is None] == expected


def test_of_too_few_rungs_those_that_most_viewers_tell_apart_stay():
    found = one_scene((22.0, 23.0, 24.5), (9.0, 9.0, 9.0))
    all_three = candidates(found, 720)
    second, third = (share_who_see(found, [22], [qp]) for qp in (23, 24))
    assert second < third < 0.25
    for least, expected in ((1, {"jnd1"}), (2, {"jnd1", "jnd3"}), (5, {"jnd1", "jnd2", "jnd3"})):
        rungs = select_rungs(all_three, by_qp, Limits(min_rungs=least))
        kept = {rung.candidate.plan.level for rung in rungs if rung.dropped is None}
        assert kept == expected
        reasons = {rung.candidate.plan.level: rung.kept for rung in rungs if rung.dropped is None}
        assert reasons.pop("jnd1") == Reason.FIRST_OF_ITS_HEIGHT
        assert set(reasons.values()) <= {Reason.FILLS_MIN_RUNGS}
    assert [rung.share for rung in rungs] == [
        None, share_who_see(found, [22], [23]), share_who_see(found, [23], [24]),
    ]  # fmt: skip
    equal = candidates(one_scene((22.0, 22.0, 22.0), None), 720)
    asked = []
    rungs = select_rungs(
        equal, lambda each: asked.append(each.name) or by_qp(each), Limits(min_rungs=3)
    )
    assert [rung.dropped is None for rung in rungs] == [True, False, False]
    assert len(asked) == 1  # the others would be the same file


def test_heights_are_those_with_labels():
    assert default_heights(2160) == default_heights(1080) == (1080, 720, 540, 360)
    assert default_heights(719) == (540, 360)
    assert default_heights(145) == (144,)


@pytest.mark.parametrize(
    ("size", "rows", "width"),
    [((1920, 1080), 540, 960), ((1280, 720), 360, 640), ((853, 480), 360, 640)],
)
def test_the_aspect_is_kept_with_an_even_width(size, rows, width):
    assert size_at(*size, rows) == (width, rows)


def test_segments_start_at_the_first_frame_that_is_their_length_away():
    rate = Fraction(30000, 1001)
    times = [index / rate for index in range(500)]
    # 4 s are 119.88 frames.
    assert segment_starts(times, 4.0, rate) == (0, 120, 240, 360, 480)
    uneven = [Fraction(each, 10) for each in (0, 1, 2, 11, 12, 40, 41)]
    assert segment_starts(uneven, 1.0, Fraction(10)) == (0, 3, 5)


def test_scenes_are_divided_where_segments_start():
    values = [(range(30), 20.0), (range(30, 50), 30.0), (range(50, 90), 25.0)]
    assert split_at(values, (0, 25, 50, 75)) == [
        (range(25), 20.0),
        (range(25, 30), 20.0),
        (range(30, 50), 30.0),
        (range(50, 75), 25.0),
        (range(75, 90), 25.0),
    ]
