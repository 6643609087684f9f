import keras
import numpy as np
import pytest

from laser_dist.errors import UserError
from laser_dist.models.autoencoder import (
    build_autoencoder,
    build_decoder,
    build_encoder,
    build_end_to_end_autoencoder,
    decoder_of,
    encoder_of,
)
from laser_dist.models.specs import BackboneSpec

# Keras 3.15 turns a variable into an array by `np.array(variable)` while saving; TensorFlow's
# variables lack the `copy` argument that numpy 2 asks for. It makes a copy instead: harmless.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
]

TINY = BackboneSpec(filters=4, latent_filters=6, height=32, width=48)


def frames(spec, num_frames=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_frames, *spec.frame_shape)).astype("float32")


def run(model, *inputs):
    return keras.ops.convert_to_numpy(model(*inputs, training=False))


def test_paper_backbone_has_the_published_size():
    spec = BackboneSpec()
    encoder, decoder = build_encoder(spec), build_decoder(spec)
    assert spec.latent_shape == (22, 40, 192)
    # Kernels 5×5 and biases: 3→128, 128→128 twice, 128→192; and back.
    middle = 2 * (25 * 128 * 128 + 128)
    assert encoder.count_params() == 25 * 3 * 128 + 128 + middle + 25 * 128 * 192 + 192
    assert decoder.count_params() == 25 * 192 * 128 + 128 + middle + 25 * 128 * 3 + 3
    # Published: E2E-LAT with decoder, less LAT.
    assert decoder.count_params() == 11_226_812 - 9_783_225


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (48, 16), (176, 320)])
def test_shapes_follow_the_input_size(height, width):
    spec = BackboneSpec(filters=4, latent_filters=6, height=height, width=width)
    autoencoder = build_autoencoder(spec, "jnd1")
    latent = run(encoder_of(autoencoder), frames(spec))
    assert spec.latent_shape == (height // 16, width // 16, 6)
    assert latent.shape == (2, *spec.latent_shape)
    assert run(decoder_of(autoencoder), latent).shape == (2, *spec.frame_shape)


def test_autoencoder_is_its_decoder_after_its_encoder():
    autoencoder = build_autoencoder(TINY, "jnd2")
    raw = frames(TINY)
    latent = run(encoder_of(autoencoder), raw)
    np.testing.assert_array_equal(run(autoencoder, raw), run(decoder_of(autoencoder), latent))
    parts = encoder_of(autoencoder).weights + decoder_of(autoencoder).weights
    assert {id(weight) for weight in parts} == {id(weight) for weight in autoencoder.weights}


def test_slope_of_the_activations_is_as_published_and_ends_have_none():
    autoencoder = build_autoencoder(TINY, "jnd1")
    for part in (encoder_of(autoencoder), decoder_of(autoencoder)):
        leaky = [each for each in part.layers if isinstance(each, keras.layers.LeakyReLU)]
        assert [each.negative_slope for each in leaky] == [0.05] * 3
        assert part.layers[-1].activation is keras.activations.linear


def test_autoencoder_survives_saving(tmp_path):
    autoencoder = build_autoencoder(TINY, "jnd3")
    autoencoder.save(tmp_path / "jnd3.keras")
    loaded = keras.saving.load_model(tmp_path / "jnd3.keras", safe_mode=True)
    np.testing.assert_array_equal(run(loaded, frames(TINY)), run(autoencoder, frames(TINY)))
    np.testing.assert_array_equal(
        run(encoder_of(loaded), frames(TINY)), run(encoder_of(autoencoder), frames(TINY))
    )


def test_end_to_end_autoencoder_takes_all_weights_but_the_last_layers():
    image = build_autoencoder(TINY, "image")
    rng = np.random.default_rng(0)
    image.set_weights([rng.normal(size=weight.shape) for weight in image.weights])
    before = image.get_weights()

    fresh = build_end_to_end_autoencoder(TINY, image)

    assert [weight.shape for weight in fresh.weights] == [weight.shape for weight in before]
    for new, old in zip(fresh.get_weights()[:-2], before[:-2], strict=True):
        np.testing.assert_array_equal(new, old)
    for new, old in zip(fresh.get_weights()[-2:], before[-2:], strict=True):
        assert not np.isclose(new, old).any()
    # Training the one leaves the other alone.
    fresh.set_weights([0 * weight for weight in fresh.get_weights()])
    for now, old in zip(image.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, old)


def test_frames_come_out_in_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        autoencoder = build_autoencoder(TINY, "jnd1")
    finally:
        keras.config.set_dtype_policy(policy)
    assert keras.backend.standardize_dtype(encoder_of(autoencoder).output.dtype) == "bfloat16"
    assert autoencoder(frames(TINY)).dtype == "float32"


@pytest.mark.parametrize(
    ("size", "usable"), [(350, "336 or 352"), (17, "16 or 32"), (15, "16"), (0, "16"), (-20, "16")]
)
@pytest.mark.parametrize("field", ["height", "width"])
def test_an_invalid_frame_size_is_refused_with_usable_ones(field, size, usable):
    with pytest.raises(UserError) as caught:
        BackboneSpec(**{field: size})
    assert str(caught.value) == (
        f"The frame {field} must be a multiple of 16, not {size}.\nhint: Use {usable}."
    )


@pytest.mark.parametrize("field", ["filters", "latent_filters"])
def test_a_backbone_without_channels_is_refused(field):
    with pytest.raises(UserError, match=f"backbone.{field} must be at least 1, not 0"):
        BackboneSpec(**{field: 0})
