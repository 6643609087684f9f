"""Where an autoencoder starts."""

import numpy as np
import pytest

from laser_dist.models.autoencoder import build_autoencoder, encoder_of
from laser_dist.models.principal import start_from_principal_components
from laser_dist.models.specs import BackboneSpec

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(3)


def started(frames, *, filters, latent_filters):
    height, width = frames.shape[1:3]
    spec = BackboneSpec(filters=filters, latent_filters=latent_filters, height=height, width=width)
    model = build_autoencoder(spec, "image")
    start_from_principal_components(model, frames)
    return model


def textured(number=8, height=32, width=48):
    """Smooth frames with some grain: neighboring pixels are similar, as in photographs."""
    coarse = RNG.uniform(20.0, 230.0, (number, height // 16 + 1, width // 16 + 1, 3))
    smooth = np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2)[:, :height, :width]
    return np.clip(smooth + RNG.normal(0.0, 8.0, smooth.shape), 0, 255).round()


def reconstruction_error(model, frames):
    return float(np.mean((model.predict(frames, verbose=0) - frames) ** 2))


def test_frames_flat_within_the_latents_cells_are_reconstructed():
    # Each 16x16 cell is one color: three numbers, for which every layer has room.
    cells = RNG.integers(0, 256, (6, 2, 3, 3))
    frames = np.repeat(np.repeat(cells, 16, axis=1), 16, axis=2).astype(np.float32)
    model = started(frames, filters=6, latent_filters=3)
    np.testing.assert_allclose(model.predict(frames, verbose=0), frames, atol=0.05)


def test_enough_room_loses_nothing():
    # Cells of 16x16 pixels that are not flat, but only five differing ones: four components.
    kinds = RNG.integers(0, 256, (5, 16, 16, 3))
    rows = [np.concatenate(kinds[RNG.integers(0, 5, 6)], axis=1) for _ in range(20)]
    frames = np.stack([np.concatenate(rows[i : i + 2], axis=0) for i in range(0, 20, 2)])
    # Pairs of 12, 48 and 192 components hold every patch of 2x2, 4x4 and 8x8 pixels.
    model = started(frames.astype(np.float32), filters=384, latent_filters=4)
    # What is left is the mean of each place in a cell: a bias has one number for all places.
    error = frames - model.predict(frames, verbose=0)
    cells = error.reshape(10, 2, 16, 6, 16, 3)
    np.testing.assert_allclose(cells, np.broadcast_to(cells[:1, :1, :, :1], cells.shape), atol=0.05)


def test_the_error_falls_with_the_number_of_latents():
    frames = textured()
    errors = [
        reconstruction_error(started(frames, filters=24, latent_filters=k), frames)
        for k in (3, 12, 48)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < np.var(frames, axis=(0, 1, 2)).mean()


def test_latents_are_centered_and_uncorrelated():
    frames = textured(number=16)
    model = started(frames, filters=24, latent_filters=12)
    latents = encoder_of(model).predict(frames, verbose=0).reshape(-1, 12)
    scale = latents.std(axis=0)
    np.testing.assert_allclose(latents.mean(axis=0) / scale, 0.0, atol=1e-3)
    np.testing.assert_allclose(np.corrcoef(latents.T), np.eye(12), atol=1e-3)


def test_every_layer_has_a_gradient():
    import tensorflow as tf

    frames = textured()
    model = started(frames, filters=24, latent_filters=64)  # 48 components, 16 latents left over
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(frames) - frames))
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        assert np.abs(gradient.numpy()).max() > 0, variable.path


def test_the_same_frames_give_the_same_weights():
    frames = textured()
    first, second = (started(frames, filters=8, latent_filters=8) for _ in range(2))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", [1, 64])
def test_few_frames_are_enough(number):
    frames = textured(number=number)
    assert np.isfinite(reconstruction_error(started(frames, filters=8, latent_filters=64), frames))


def test_a_single_filter_keeps_its_random_start():
    spec = BackboneSpec(filters=1, latent_filters=4, height=16, width=16)
    model = build_autoencoder(spec, "image")
    before = model.get_weights()
    start_from_principal_components(model, textured(height=16, width=16))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
