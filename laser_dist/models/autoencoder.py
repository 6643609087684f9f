"""The backbone: a convolutional autoencoder from a raw frame to the frame at a JND level."""

from typing import Any

import keras

from laser_dist.models.specs import NUM_CHANNELS, NUM_STAGES, BackboneSpec

_KERNEL_SIZE = 5
NEGATIVE_SLOPE = 0.05


def build_encoder(spec: BackboneSpec, name: str = "encoder") -> keras.Model:
    """Build the encoder: frames [B, H, W, 3] float32, RGB in 0..255, to latents [B, H/16, W/16, C].

    Three times (Conv 5×5, stride 2; LeakyReLU 0.05), then Conv 5×5, stride 2, without activation.
    """
    frame = x = keras.Input(spec.frame_shape, name="frame", dtype="float32")
    for stage in range(1, NUM_STAGES):
        x = _conv(spec.filters, name=f"conv{stage}")(x)
        x = keras.layers.LeakyReLU(NEGATIVE_SLOPE, name=f"leaky{stage}")(x)
    latent = _conv(spec.latent_filters, name="latent")(x)
    return keras.Model(frame, latent, name=name)


def build_decoder(spec: BackboneSpec, name: str = "decoder") -> keras.Model:
    """Build the decoder: latents [B, H/16, W/16, C] to frames [B, H, W, 3], not clipped to 0..255.

    Three times (ConvTranspose 5×5, stride 2; LeakyReLU 0.05), then ConvTranspose 5×5, stride 2,
    without activation, always in float32: at the scale of a frame bfloat16 has steps of one code
    value.
    """
    latent = x = keras.Input(spec.latent_shape, name="latent", dtype="float32")
    for stage in range(1, NUM_STAGES):
        x = _deconv(spec.filters, name=f"deconv{stage}")(x)
        x = keras.layers.LeakyReLU(NEGATIVE_SLOPE, name=f"leaky{stage}")(x)
    frame = _deconv(NUM_CHANNELS, name="reconstruction", dtype="float32")(x)
    return keras.Model(latent, frame, name=name)


def build_autoencoder(spec: BackboneSpec, name: str) -> keras.Model:
    """Build an autoencoder with new weights from two nested models, encoder and decoder.

    Args:
      spec: size.
      name: what it reconstructs, for example "image" or "jnd1". The nested models have this
        prefix, so one predictor can contain three autoencoders.

    Returns:
      Model from frames [B, H, W, 3] float32, RGB in 0..255, to frames of the same shape and scale.
    """
    encoder = build_encoder(spec, name=f"{name}_encoder")
    decoder = build_decoder(spec, name=f"{name}_decoder")
    frame = keras.Input(spec.frame_shape, name="frame", dtype="float32")
    return keras.Model(frame, decoder(encoder(frame)), name=name)


def build_end_to_end_autoencoder(
    spec: BackboneSpec, image_autoencoder: keras.Model, name: str = "end_to_end"
) -> keras.Model:
    """Build an autoencoder to train with a head: weights of a raw → raw one, but a new last layer.

    Args:
      spec: size of both.
      image_autoencoder: trained raw → raw; its weights are copied, not shared.
      name: as in `build_autoencoder`.
    """
    fresh = build_autoencoder(spec, name)
    encoder_of(fresh).set_weights(encoder_of(image_autoencoder).get_weights())
    for new, old in zip(
        decoder_of(fresh).layers[:-1], decoder_of(image_autoencoder).layers[:-1], strict=True
    ):
        new.set_weights(old.get_weights())
    return fresh


def encoder_of(autoencoder: keras.Model) -> keras.Model:
    """Return the encoder inside an autoencoder of `build_autoencoder`, sharing its weights."""
    return autoencoder.get_layer(f"{autoencoder.name}_encoder")


def decoder_of(autoencoder: keras.Model) -> keras.Model:
    """Return the decoder inside an autoencoder of `build_autoencoder`, sharing its weights."""
    return autoencoder.get_layer(f"{autoencoder.name}_decoder")


def _conv(filters: int, *, name: str) -> Any:
    return keras.layers.Conv2D(filters, _KERNEL_SIZE, strides=2, padding="same", name=name)


def _deconv(filters: int, *, name: str, dtype: str | None = None) -> Any:
    return keras.layers.Conv2DTranspose(
        filters, _KERNEL_SIZE, strides=2, padding="same", name=name, dtype=dtype
    )
