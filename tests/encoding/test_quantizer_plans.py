"""Plans and matched encoders: the values follow from formulas that the tests state."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_clips import moving_clip

from laser_dist.encoding.matching import codec_map, excerpt_places, excerpts_of, search
from laser_dist.encoding.plan import default_margin, plan_of
from laser_dist.errors import UserError
from laser_dist.jnd.calibration import Residuals
from laser_dist.jnd.scale import QF, QP
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.predict import ClipPrediction, ScenePrediction


def prediction(*levels, residuals=None, scale=QP):
    """Return a prediction of scenes of 25 frames, a second each."""
    scenes = [
        ScenePrediction(
            start_s=float(index),
            end_s=float(index + 1),
            frames=range(25 * index, 25 * index + 25),
            levels=np.array([level, level + 4], np.float32),
            spreads=None,
            levels_per_frame=np.array([[level, level + 4]], np.float32),
            timestamps_s=(index + 0.5,),
            levels_at_sur=np.array([level, level + 4.0]),
        )
        for index, level in enumerate(levels)
    ]
    return ClipPrediction(
        clip="a.mp4",
        spec=PredictorSpec(
            variant="lat", levels=(1, 2), scale=scale.name, simulated=True, residuals=residuals
        ),
        scale=scale,
        scenes=tuple(scenes),
        sur=0.75,
        model="m",
        runtime="r",
    )


def test_each_scene_has_its_level_less_the_margin_rounded_to_the_finer_side():
    plan = plan_of(prediction(30.9, 24.2), margin=0.5)
    assert [each.qp for each in plan.scenes] == [30, 23]
    assert [each.frames for each in plan.scenes] == [range(25), range(25, 50)]
    second = plan_of(prediction(30.9, 24.2), "jnd2", margin=0)
    assert [each.qp for each in second.scenes] == [34, 28]
    constant = plan_of(prediction(30.9, 24.2), margin=0.5, constant=True)
    assert [each.qp for each in constant.scenes] == [23, 23]
    assert [each.qp for each in plan_of(prediction(1.2), margin=5).scenes] == [1]


def test_the_default_margin_without_residuals_is_the_published_error():
    assert default_margin(prediction(30), "jnd1") == 1.57
    few = Residuals.of_clips(np.zeros((5, 2)), ["a", "b", "c", "d", "e"])
    assert default_margin(prediction(30, residuals=few), "jnd1") == 1.57


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(UserError, match="does not predict jnd3"):
        plan_of(prediction(30), "jnd3")
    with pytest.raises(UserError, match="in QF"):
        plan_of(prediction(30, scale=QF))
    clip = prediction(30)
    still = replace(clip, scenes=(replace(clip.scenes[0], end_s=None),))
    with pytest.raises(UserError, match="still image"):
        plan_of(still)


@pytest.mark.parametrize("codec", ["x264", "x265", "svtav1"])
@pytest.mark.parametrize("shift", [-4, -1, 0, 2, 5])
def test_two_trials_find_the_crf_of_a_quality(codec, shift):
    """Quality falls by quantizer steps, faster than in most clips, and from another CRF."""
    prior = codec_map(codec)
    start = prior.crf_with(prior.drop_at_qp(30))

    def quality_at(crf):
        return 40 - 6 * (log_step(codec, crf) - log_step(codec, start + shift))

    match = search(40, quality_at, qp=30, prior=prior, coarsest=63)
    assert match.num_probes <= 2
    # The map of SVT-AV1 has the steps of real encodes, which differ from the formula.
    assert abs(match.crf - start - shift) <= (2 if codec == "svtav1" else 0.75)
    assert match.target_db == 40
    shifted = prior.crf_with(prior.drop_at_qp(30) + match.offset_db)
    assert match.crf == pytest.approx(shifted, abs=0.25)  # the encoders take halves


def test_a_quality_beyond_the_coarsest_crf_does_not_shift_other_scenes():
    """A clip on the map, whose first scene needs a CRF that SVT-AV1 does not have."""
    prior = codec_map("svtav1")
    match = search(
        -prior.drop_at_qp(45), lambda crf: -prior.drop_at(crf), qp=45, prior=prior, coarsest=63
    )
    assert prior.crf_with(prior.drop_at_qp(45)) > 64
    assert match.crf == 63
    assert match.offset_db == pytest.approx(0, abs=0.01)


def log_step(codec, crf):
    """Return the binary logarithm of the quantizer step, up to a constant.

    It doubles every 6 CRF in H.264 and HEVC. In AV1 the quantizer index is four times the CRF; the
    step rises by one per index at first, and exponentially from index 100.
    """
    if codec != "svtav1":
        return crf / 6
    index = 4 * crf
    return np.log2(index + 8) if index < 100 else np.log2(108) + (index - 100) / 38


@pytest.mark.parametrize("codec", ["x264", "x265", "svtav1"])
def test_the_drop_of_quality_rises_with_the_crf_and_has_an_inverse(codec):
    prior = codec_map(codec)
    crfs = np.arange(1, 52, 0.5)
    drops = [prior.drop_at(crf) for crf in crfs]
    assert np.all(np.diff(drops) > 0)
    assert [prior.crf_with(drop) for drop in drops] == pytest.approx([*crfs])
    at = list(prior.crfs)
    assert [prior.drop_at(crf) for crf in at] == pytest.approx([*prior.drops_db])


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 50)
)
def test_excerpts_are_in_scenes_and_in_separate_parts_of_the_clip(lengths, count, length):
    edges = [0, *np.cumsum(lengths).tolist()]
    scenes = [range(*pair) for pair in zip(edges, edges[1:], strict=False)]
    places = excerpt_places(scenes, count, length)
    parts = max(1, min(count, edges[-1] // length))
    assert len(places) == parts
    for index, place in enumerate(places):
        (scene,) = [each for each in scenes if {*place} <= {*each}]
        first, after = (edges[-1] * edge // parts for edge in (index, index + 1))
        inside = [len({*each} & {*range(first, after)}) for each in scenes]
        assert first <= place.start < place.stop <= after
        assert len(place) == min(length, max(inside))
        # In the middle of what the longest scene has of this part.
        before = place.start - max(scene.start, first)
        behind = min(scene.stop, after) - place.stop
        assert 0 <= behind - before <= 1


def test_excerpts_are_the_frames_at_their_places(tmp_path):
    import av

    path = tmp_path / "a.mkv"
    clip = moving_clip(90, 64, 96)
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(clip.num_frames):
            frame = clip.frame(index)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = excerpts_of(path, [range(40), range(40, 90)], 3)
    # A second each, from thirds of 30 frames; the longest scene of the second third has 20.
    for excerpt, place in zip(found, (range(2, 27), range(40, 60), range(62, 87)), strict=True):
        np.testing.assert_array_equal(excerpt.y, clip.y[place.start : place.stop])
