"""The interval of a plan's level, from the model or from the published error."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import foldnorm, norm

from laser_dist.encoding.plan import plan_of, satisfied_share
from laser_dist.jnd.calibration import Residuals
from laser_dist.jnd.scale import QP
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.predict import ClipPrediction, ScenePrediction


@pytest.fixture
def prediction():
    levels = np.array([27.3, 31.0, 36.0])
    scene = ScenePrediction(
        start_s=0.0,
        end_s=5.0,
        frames=range(150),
        levels=levels.astype(np.float32),
        spreads=None,
        levels_per_frame=levels[None].astype(np.float32),
        timestamps_s=(0.0,),
        levels_at_sur=levels,
    )
    spec = PredictorSpec(variant="mj-lat", levels=(1, 2, 3), scale="QP", simulated=False)
    return ClipPrediction(
        clip="a.mp4", spec=spec, scale=QP, scenes=(scene,), sur=0.75, model="m", runtime="r"
    )


def test_the_interval_is_the_one_of_the_model(prediction):
    # Normal errors, in groups that do not matter.
    errors = np.outer(norm.ppf((np.arange(4000) + 0.5) / 4000), [1.0, 3.0, 4.0]) + [0, 0.5, 0]
    groups = [str(index % 40) for index in range(4000)]
    spec = replace(prediction.spec, residuals=Residuals.of_clips(errors, groups))
    plan = plan_of(replace(prediction, spec=spec), "jnd2")
    sizes = folded(3.0, 0.5)
    assert plan.half_width == pytest.approx(sizes.ppf(0.9), abs=0.05)
    assert plan.margin == pytest.approx(norm(0.5, 3.0).ppf(0.9), abs=0.05)
    far = Residuals.of_clips(errors - 20, groups)  # all predictions are finer than the levels
    plan = plan_of(replace(prediction, spec=replace(spec, residuals=far)), "jnd2")
    assert plan.margin == 0


def folded(spread, mean):
    """Return the distribution of the size of a normal value."""
    return foldnorm(mean / spread, scale=spread)


def test_the_share_of_satisfied_viewers_follows_from_levels_and_spreads(prediction):
    (scene,) = prediction.scenes
    spreads = np.array([2.0, 3.0, 4.0], np.float32)
    calibrated = Residuals.of_clips(np.tile([[2.0, 1.0, 1.0]], (40, 1)), ["a", "b"] * 20)
    spread = replace(
        prediction,
        spec=replace(prediction.spec, spread=True, residuals=calibrated),
        scenes=(replace(scene, spreads=spreads), replace(scene, spreads=spreads, start_s=3.0)),
    )
    plan = plan_of(spread, margin=0.0)
    assert [each.qp for each in plan.scenes] == [27, 27]

    def share(level):
        """Of viewers whose sample, a whole QP, is above 27; 75% of them are above the level."""
        mean = level + norm.ppf(0.75) * 2.0
        return norm.sf(27.5, mean, 2.0)

    found = satisfied_share(spread, plan)
    assert found.expected == pytest.approx(share(27.3), abs=1e-4)
    assert found.low == pytest.approx(share(27.3 - 2), abs=1e-4)
    assert found.high == pytest.approx(share(27.3 + 2), abs=1e-4)
    assert satisfied_share(prediction, plan_of(prediction)) is None


def test_without_intervals_it_follows_from_the_published_error(prediction):
    # A normal error of mean size 1.57 has a standard deviation of 1.57 * sqrt(pi / 2) = 1.968.
    assert plan_of(prediction).half_width == pytest.approx(1.968 * 1.6449, abs=2e-3)
    assert plan_of(prediction, margin=0.0).scenes[0].qp == 27
