from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
from PIL import Image

from laser_dist.errors import UserError
from laser_dist.jnd.calibration import Residuals
from laser_dist.jnd.normal_sur import normal_sur
from laser_dist.jnd.scale import QF, QP
from laser_dist.models.domain import Domain, frame_features
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.models.predictors import PredictorSpecLayer
from laser_dist.prediction import keras_models, predict
from laser_dist.prediction.load import load_predictor
from laser_dist.prediction.model import Model

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 16, 8


def mean_color_model(levels=(1, 2, 3), *, spread: bool = False, scale="QP", columns=None):
    """Build a model whose levels are the channel means, and whose spreads are a tenth of them."""
    frames = keras.Input((HEIGHT, WIDTH, 3))
    found = keras.layers.GlobalAveragePooling2D()(frames)
    found = found[:, : columns or len(levels)]
    if spread:
        both = [keras.layers.Rescaling(factor)(found) for factor in (1, 0.1)]
        both = [keras.layers.Reshape((len(levels), 1))(each) for each in both]
        found = keras.layers.Concatenate()(both)
    variant = "mj-lat" if len(levels) == 3 else "lat"
    spec = PredictorSpec(variant=variant, levels=levels, scale=scale, simulated=True, spread=spread)
    return keras.Model(frames, PredictorSpecLayer(asdict(spec))(found))


@pytest.fixture(scope="module")
def predictor():
    return keras_models.from_model(mean_color_model())


def plain_frames(*colors) -> np.ndarray:
    return np.stack([np.full((HEIGHT, WIDTH, 3), color, np.uint8) for color in colors])


def two_frames():
    """Return two frames that differ by 1 in each channel."""
    return plain_frames((30, 20, 60), (31, 21, 61))


def test_the_frame_size_comes_from_the_model(predictor):
    assert (predictor.width, predictor.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batch_size_does_not_change_the_result(predictor, batch_size):
    colors = [(20, 30, 40), (22, 32, 42), (24, 30, 40)]
    levels = predict.predict_frames(predictor, plain_frames(*colors), batch_size=batch_size)
    assert levels.dtype == np.float32
    assert levels == pytest.approx(np.array(colors), abs=1e-4)


def test_no_frames_give_no_levels(predictor):
    assert predict.predict_frames(predictor, plain_frames(0)[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((1, HEIGHT, WIDTH + 1, 3), np.uint8), np.zeros((1, HEIGHT, WIDTH, 3), np.float32)],
)
def test_frames_of_another_shape_or_type_are_refused(predictor, frames):
    with pytest.raises(ValueError, match=r"frames must be uint8 \[N, 8, 16, 3\]"):
        predict.predict_frames(predictor, frames)


def test_clip_levels_are_the_mean_over_its_frames(predictor):
    found = Model(predictor).predict(two_frames())
    # Neither rounded, nor clipped, nor ordered ...
    assert found.levels == pytest.approx([30.5, 20.5, 60.5], abs=1e-4)
    assert found.scenes[0].levels_per_frame.shape == (2, 3)
    # ... unlike the quantizers for an encoder.
    assert found.quantizers == {"jnd1": 30, "jnd2": 20, "jnd3": 51}


@pytest.mark.parametrize("levels", [(1, 2, 3), (2,), (1, 3)])
def test_a_model_predicts_the_levels_of_its_spec(levels):
    found = Model(keras_models.from_model(mean_color_model(levels))).predict(two_frames())
    assert found.spec.levels == levels
    assert found.levels == pytest.approx([30.5, 20.5, 60.5][: len(levels)], abs=1e-4)
    assert found.scenes[0].levels_per_frame.shape == (2, len(levels))
    assert [*found.quantizers] == [f"jnd{level}" for level in levels]
    assert found.levels_at_sur.shape == (len(levels),)
    assert found.spreads is None


def test_spreads_are_the_mean_over_the_frames():
    predictor = keras_models.from_model(mean_color_model((1, 2), spread=True))
    found = Model(predictor).predict(two_frames())
    assert found.levels == pytest.approx([30.5, 20.5], abs=1e-4)
    assert found.spreads == pytest.approx([3.05, 2.05], abs=1e-4)
    assert found.scenes[0].levels_per_frame.shape == (2, 2)
    np.testing.assert_array_equal(found.levels_at_sur, found.levels)
    assert predict.predict_frames(predictor, plain_frames(0)[:0]).shape == (0, 2, 2)


@pytest.mark.parametrize("scale", [QP, QF], ids=lambda scale: scale.name)
@pytest.mark.parametrize("sur", [0.5, 0.9])
def test_another_sur_is_read_off_the_curve(scale, sur):
    model = mean_color_model((1, 2), spread=True, scale=scale.name)
    found = Model(keras_models.from_model(model)).predict(two_frames(), sur=sur)
    found_sur = normal_sur(found.levels, found.spreads, found.levels_at_sur, scale=scale)
    assert found_sur == pytest.approx([sur] * 2)
    rounded = np.floor if scale.higher_is_worse else np.ceil
    assert [*found.quantizers.values()] == rounded(found.levels_at_sur).tolist()
    better = (
        found.levels_at_sur < found.levels
        if scale.higher_is_worse
        else found.levels_at_sur > found.levels
    )
    assert better.all() == (sur > 0.75)


def test_another_sur_needs_spreads(predictor):
    with pytest.raises(UserError, match=r"only supports --sur 0\.75(.|\n)*--set head\.spread=true"):
        Model(predictor).predict(two_frames(), sur=0.9)


def test_an_interval_is_for_the_share_that_is_asked_for(predictor):
    sizes = np.arange(1, 101)  # of 100 errors, p% are p or less
    errors = np.outer(sizes * (-1) ** sizes, np.ones(len(predictor.spec.levels)))
    residuals = Residuals.of_clips(errors, [f"g{size % 5}" for size in sizes])
    calibrated = Model(replace(predictor, spec=replace(predictor.spec, residuals=residuals)))
    for share in (None, 0.5, 0.9):
        found = calibrated.predict(two_frames(), interval=share)
        document = found.to_dict()
        assert document["interval"] == found.interval == (share or 0.9)
        assert [*document["half_widths"].values()] == pytest.approx(
            [100 * found.interval] * len(errors[0]), abs=5
        )
    with pytest.raises(UserError, match=r"no interval for 99\.5% of clips(.|\n)*with 100, which"):
        calibrated.predict(two_frames(), interval=0.995)
    plain = Model(predictor)
    assert "interval" not in plain.predict(two_frames()).to_dict()
    with pytest.raises(UserError, match=r"not been calibrated(.|\n)*evaluate --calibrate"):
        plain.predict(two_frames(), interval=0.9)


def test_a_clip_unlike_the_training_clips_has_a_note(predictor, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, HEIGHT, WIDTH, 3), np.uint8)
    features = frame_features(noise)
    domain = Domain.of_clips(features, features, [str(row % 4) for row in range(40)])
    domain = replace(domain, limit=20.0)  # scaling makes noise a little smoother
    model = Model(replace(predictor, spec=replace(predictor.spec, domain=domain)))
    for name, pixels, is_far in (
        ("like.png", noise[0], False),
        ("unlike.png", np.full((HEIGHT, WIDTH, 3), (250, 10, 10), np.uint8), True),
    ):
        large = pixels.repeat(4, axis=0).repeat(4, axis=1)
        Image.fromarray(large).save(tmp_path / name)
        notes = [each for each in model.predict(tmp_path / name).warnings if "unlike" in each]
        assert len(notes) == is_far
        plain = Model(predictor).predict(tmp_path / name)
        assert not any("unlike" in each for each in plain.warnings)


def test_a_loaded_predictor_gives_the_same_levels(tmp_path):
    model = mean_color_model((1, 3), spread=True, scale="QF")
    predictor = keras_models.from_model(model)
    (tmp_path / "models").mkdir()
    model.save(tmp_path / "models" / "predictor.keras")
    loaded = load_predictor(tmp_path)
    assert loaded.scale is QF
    assert loaded.spec == predictor.spec
    frames = plain_frames((20, 30, 40))
    expected = predict.predict_frames(predictor, frames)
    assert (predict.predict_frames(loaded, frames) == expected).all()


def test_a_folder_without_a_model_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"has no finished model \(models/predictor\.keras\)"):
        load_predictor(tmp_path)


def test_a_damaged_model_file_is_a_user_error(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "predictor.keras").write_bytes(b"half a file")
    with pytest.raises(UserError, match="predictor.keras is not a .keras model, or is damaged"):
        load_predictor(tmp_path)


def test_a_model_with_another_output_shape_is_refused():
    with pytest.raises(UserError, match=r"maps .* not RGB frames to \(3,\)"):
        keras_models.from_model(mean_color_model(columns=1))


def test_a_model_without_a_spec_is_refused():
    frames = keras.Input((HEIGHT, WIDTH, 3))
    model = keras.Model(frames, keras.layers.GlobalAveragePooling2D()(frames))
    with pytest.raises(UserError, match="The model is not a predictor"):
        keras_models.from_model(model)


def test_a_model_with_an_unknown_scale_is_refused():
    with pytest.raises(UserError, match='The scale of The model is "CRF"'):
        keras_models.from_model(mean_color_model(scale="CRF"))


def test_images_are_rounded_and_clipped():
    frames = keras.Input((HEIGHT, WIDTH, 3))
    brighter = keras.Model(frames, keras.layers.Rescaling(1.5, offset=-20.4)(frames))
    images = keras_models.predict_images(brighter, plain_frames((0, 100, 250)))
    assert images.dtype == np.uint8
    # -20.4 and 354.6 are out of range; 150 - 20.4 rounds to 130.
    assert np.unique(images.reshape(-1, 3), axis=0).tolist() == [[0, 130, 255]]


def test_a_model_file_contains_its_scale(tmp_path):
    mean_color_model(scale="QF").save(tmp_path / "any_name.keras")
    loaded = load_predictor(tmp_path / "any_name.keras")
    assert loaded.scale is QF
    levels = predict.predict_frames(loaded, plain_frames((20, 30, 40)))
    assert levels == pytest.approx(np.array([[20, 30, 40]]), abs=1e-4)

    plain = keras.Sequential([keras.Input((HEIGHT, WIDTH, 3)), keras.layers.Flatten()])
    plain.save(tmp_path / "plain.keras")
    with pytest.raises(UserError, match="plain.keras is not a predictor"):
        load_predictor(tmp_path / "plain.keras")
