"""Backbones and heads joined to predictors, and to what is trained end to end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from laser_dist.models.autoencoder import decoder_of, encoder_of
from laser_dist.models.predictor_spec import PredictorSpec, PredictorSpecLayer
from laser_dist.models.variants import Variant, variant_named


def feature_extractor(variant: Variant, autoencoder: keras.Model) -> keras.Model:
    """The part of a backbone that a head of `variant` needs, sharing the backbone's weights.

    Returns:
      The encoder, frames [B, H, W, 3] to latents, or the whole autoencoder, frames to frames.
    """
    return encoder_of(autoencoder) if variant.space == "latent" else autoencoder


def build_predictor(
    autoencoders: Sequence[keras.Model],
    heads: Sequence[keras.Model],
    answer: PredictorSpec,
    *,
    name: str = "predictor",
) -> keras.Model:
    """Backbones and heads as one model that computes the levels and nothing else.

    Latent variants contain no decoder. Weights are shared with the given models. Of a variant that
    is not end to end the backbone's parts in use are frozen, in the given autoencoders too; an end
    to end variant leaves them as they are.

    Args:
      autoencoders: of `build_autoencoder`, one for each of the answer's levels, in their order, of
        one size, with differing names.
      heads: of `build_head`: one, of a variant that predicts all levels at once; else one for each
        of the answer's levels. Their names differ.
      answer: which variant, and what the output says.
      name: the model's name.

    Returns:
      Model from raw frames [B, H, W, 3] float32, RGB in 0..255, to levels [B, L] float32 on the
      dataset's scale, or [B, L, 2] of heads that give the spread.

    Raises:
      ValueError: number, names or sizes of the parts do not fit.
    """
    variant = variant_named(answer.variant)
    _check_parts(variant, autoencoders, heads, answer.levels)
    extractors = [feature_extractor(variant, autoencoder) for autoencoder in autoencoders]
    if not variant.end_to_end:
        for extractor in extractors:
            extractor.trainable = False
    raw = _raw_input(autoencoders[0])
    features = [extractor(raw) for extractor in extractors]
    if variant.num_levels > 1:
        levels = heads[0](features)
    else:
        levels = [head(each) for head, each in zip(heads, features, strict=True)]
        levels = (
            keras.layers.Concatenate(axis=1, name="all_levels", dtype="float32")(levels)
            if len(levels) > 1
            else levels[0]
        )
    said = PredictorSpecLayer(dataclasses.asdict(answer), name="answer", dtype="float32")(levels)
    return keras.Model(raw, said, name=name)


def build_joint_model(
    variant: Variant, autoencoder: keras.Model, head: keras.Model, *, name: str = "joint"
) -> keras.Model:
    """An end-to-end variant as it is trained: raw frames to the reconstructed frame and the level.

    The weights are those of the given models, so the predictor of `build_predictor` made of the
    same parts follows the training.

    Args:
      variant: E2E_LAT or E2E_REC.
      autoencoder: of `build_end_to_end_autoencoder`.
      head: as in `build_predictor`.
      name: the model's name.

    Returns:
      Model from raw frames [B, H, W, 3] float32, RGB in 0..255, to a list of two: frames
      [B, H, W, 3] and levels [B, 1], both float32.

    Raises:
      ValueError: `variant` is not end to end, or the parts do not fit.
    """
    if not variant.end_to_end:
        raise ValueError(f"Joint model: expected an end-to-end variant, got {variant.name}.")
    _check_parts(variant, [autoencoder], [head], (1,))
    raw = _raw_input(autoencoder)
    latent = encoder_of(autoencoder)(raw)
    frame = decoder_of(autoencoder)(latent)
    level = head(latent if variant.space == "latent" else frame)
    return keras.Model(raw, [frame, level], name=name)


def _raw_input(autoencoder: keras.Model) -> Any:
    return keras.Input(autoencoder.input_shape[1:], name="raw", dtype="float32")


def _check_parts(
    variant: Variant,
    autoencoders: Sequence[keras.Model],
    heads: Sequence[keras.Model],
    levels: Sequence[int],
) -> None:
    num_levels = variant.num_levels if variant.num_levels > 1 else len(levels)
    _check_names("Backbones", variant, autoencoders, num_levels)
    _check_names("Heads", variant, heads, 1 if variant.num_levels > 1 else num_levels)
    expected = [feature_extractor(variant, each).output_shape for each in autoencoders]
    got = [shape for head in heads for shape in _input_shapes(head)]
    if got != expected or len(levels) != num_levels:
        raise ValueError(
            f"Head of {variant.name}: expected one for features {expected}, got one for {got}."
        )


def _check_names(what: str, variant: Variant, models: Sequence[keras.Model], expected: int) -> None:
    names = [model.name for model in models]
    if len(set(names)) != expected or len(names) != expected:
        raise ValueError(
            f"{what} of {variant.name}: expected {expected} of differing names, got {names}."
        )


def _input_shapes(head: keras.Model) -> list[Any]:
    shape = head.input_shape
    return shape if isinstance(shape, list) else [shape]
