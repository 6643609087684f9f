import io
import json
from dataclasses import replace

import numpy as np
import pytest

from laser_dist.commands import predict
from laser_dist.commands.terminal import Terminal
from laser_dist.jnd.calibration import Residuals
from laser_dist.jnd.normal_sur import normal_level
from laser_dist.jnd.scale import scale_named
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.predict import ClipPrediction, ScenePrediction


def make_prediction(
    at_75, *, scale="QP", levels=(1, 2, 3), spreads=None, sur=0.75
) -> ClipPrediction:
    """Return the prediction of a clip of one frame."""
    predicted = np.array(at_75, np.float32)
    widths = None if spreads is None else np.array(spreads, np.float32)
    at_sur = normal_level(
        predicted, 0.0 if widths is None else widths, sur, scale=scale_named(scale, of="it")
    )
    return ClipPrediction(
        clip="a.mp4",
        model="run",
        runtime="Keras 3",
        scale=scale_named(scale, of="it"),
        spec=PredictorSpec(
            variant="mj-lat",
            levels=levels[: len(predicted)],
            scale=scale,
            simulated=True,
            spread=spreads is not None,
        ),
        scenes=(
            ScenePrediction(
                start_s=0.0,
                end_s=1.0,
                frames=range(25),
                levels=predicted,
                spreads=widths,
                levels_per_frame=predicted[None],
                timestamps_s=(0.5,),
                levels_at_sur=at_sur,
            ),
        ),
        sur=sur,
    )


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        ("QP", "QP (as predicted, before rounding to the finer side); a higher QP is coarser."),
        ("QF", "QF (as predicted, before rounding to the finer side); a lower QF is coarser."),
    ],
)
def test_predictions_name_the_scale_and_its_direction(scale, sentence):
    prediction = make_prediction([34.2, 23.7, 18.4], scale=scale)
    file = io.StringIO()
    predict.say_predictions(Terminal(file), [prediction])
    assert sentence in file.getvalue()
    text = json.dumps(prediction.to_dict())
    assert json.loads(text)["scale"] == scale
    other = ({"QP", "QF"} - {scale}).pop()
    assert other not in file.getvalue()
    assert other.lower() not in text.lower()


def test_a_calibrated_prediction_has_intervals():
    plain = make_prediction([26.6, 31.0, 35.2])
    sizes = np.outer(np.tile([-1.0, 1.0], 10), [3.14, 2.5, 2.0])
    spec = replace(plain.spec, residuals=Residuals.of_clips(sizes, ["a", "a", "b", "b"] * 5))
    for prediction, is_calibrated in ((plain, False), (replace(plain, spec=spec), True)):
        file = io.StringIO()
        predict.say_predictions(Terminal(file), [prediction])
        sentence = "Intervals for 90% of clips: ± 3.1, ± 2.5, ± 2.0 QP."
        assert (sentence in file.getvalue()) == is_calibrated
        document = json.loads(json.dumps(prediction.to_dict()))
        expected = {"jnd1": 3.14, "jnd2": 2.5, "jnd3": 2.0} if is_calibrated else None
        assert document.get("half_widths") == expected


def test_a_clip_of_several_scenes_has_a_row_for_each():
    clip = make_prediction([26.6, 31.0, 35.2])
    (scene,) = clip.scenes
    other = make_prediction([24.2, 32.0, 35.2]).scenes[0]
    scenes = (replace(scene, end_s=65.25), replace(other, start_s=65.25, end_s=3700.0))
    file = io.StringIO()
    predict.say_predictions(Terminal(file), [replace(clip, scenes=scenes)])
    rows = [line.split() for line in file.getvalue().splitlines()[2:5]]
    assert rows[0][1::2] == ["24", "31", "35"]
    assert rows[1][:4] == ["0:00.00", "–", "1:05.25", "26"]
    assert rows[2][:4] == ["1:05.25", "–", "1:01:40.00", "24"]
    assert "scenes of 90% of its time allow QP 24, 32, 35." in file.getvalue()


def test_a_long_path_is_not_wrapped():
    file = io.StringIO()
    Terminal(file).say("/" + "x" * 300)
    assert file.getvalue() == "/" + "x" * 300 + "\n"


def test_predictions_as_json():
    prediction = make_prediction([26.6, 31.0, 35.2])
    document = json.loads(json.dumps(prediction.to_dict()))
    assert document["clip"] == "a.mp4"
    assert (document["scale"], document["sur"]) == ("QP", 0.75)
    assert document["quantizers"] == {"jnd1": 26, "jnd2": 31, "jnd3": 35}
    expected = {"jnd1": 26.6, "jnd2": 31.0, "jnd3": 35.2}
    assert document["levels"] == pytest.approx(expected, abs=1e-5)
    assert document["scenes"][0]["levels_per_frame"]["jnd2"] == [31.0]
    assert "spreads" not in document
    assert document["simulated"] is True


def test_spreads_and_the_sur_are_printed():
    prediction = make_prediction([26.6, 35.2], levels=(1, 3), spreads=[2.0, 4.0], sur=0.9)
    document = json.loads(json.dumps(prediction.to_dict()))
    assert document["sur"] == 0.9
    assert document["spreads"] == {"jnd1": 2.0, "jnd3": 4.0}
    assert document["levels"] == pytest.approx({"jnd1": 26.6, "jnd3": 35.2}, abs=1e-5)
    # 0.607 spreads better than the levels: the distance between the 10% and the 25% quantile.
    assert document["quantizers"] == {"jnd1": 25, "jnd3": 32}
    file = io.StringIO()
    predict.say_predictions(Terminal(file), [prediction])
    text = file.getvalue()
    assert text.splitlines()[0].split() == ["clip", "JND1", "JND3"]
    assert "25 (25.4 ± 2.0)" in text
    assert "32 (32.8 ± 4.0)" in text
    assert "QP at which 90% of the viewers are satisfied (as predicted" in text
    assert "± the viewers' standard deviation" in text
    assert text.splitlines()[-1] == "Encode at JND1: ffmpeg -i a.mp4 -c:v libx264 -qp 25 out.mp4"


def test_a_level_shows_the_value_before_rounding():
    prediction = make_prediction([26.63, 31.0])
    assert predict.level_texts(prediction, prediction) == ["26 (26.6)", "31 (31.0)"]
