"""Plans and matched encoders: the values follow from formulas that the tests state."""

from dataclasses import replace

import numpy as np
import pytest

from laser_dist.encoding.matching import codec_map, search
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
    """Quality that falls along a curve, steeper than the map says and shifted from it."""
    prior = codec_map(codec)

    def quality_at(crf):
        x = crf - prior.crf_at(30) - shift
        return 40 + 1.4 * prior.db_per_crf * (x + 0.005 * x**2)

    match = search(40, quality_at, start=prior.crf_at(30), db_per_crf=prior.db_per_crf, coarsest=63)
    assert match.num_probes <= 2
    assert abs(match.crf - prior.crf_at(30) - shift) <= 0.5
    assert match.target_db == 40
