"""Heads: from features of one or three backbones to JND levels. They know no pixels."""

from collections.abc import Sequence
from typing import Any

import keras

from laser_dist.models.layers import NORM_MOMENTUM, SignedLog, conv_block, halve
from laser_dist.models.specs import HeadSpec


def build_head(
    spec: HeadSpec,
    feature_shape: tuple[int, int, int],
    *,
    levels: int,
    initial_levels: Sequence[float] | None = None,
    name: str = "head",
) -> keras.Model:
    """A head with fresh weights: one branch and output per level.

    Args:
      spec: its size and form.
      feature_shape: (h, w, c) of one branch's features, as of `BackboneSpec.latent_shape`.
      levels: number of branches and of predicted levels, 1 or 3.
      initial_levels: [levels] start values of the output biases on the dataset's scale, such as
        the training set's mean levels, so that the head starts near them; None starts at 0.
      name: the model's name.

    Returns:
      Model from float32 [B, h, w, c], or a list of three such for three levels, to float32
      [B, levels] on the dataset's scale.

    Raises:
      ValueError: `levels` is neither 1 nor 3, or `initial_levels` is of another length.
    """
    if levels not in (1, 3):
        raise ValueError(f"Head levels: expected 1 or 3, got {levels}.")
    start = (0.0,) * levels if initial_levels is None else tuple(map(float, initial_levels))
    if len(start) != levels:
        raise ValueError(f"Head initial_levels: expected {levels} values, got {len(start)}.")
    names = ("",) if levels == 1 else ("1", "2", "3")
    inputs = [keras.Input(feature_shape, name=f"features{n}", dtype="float32") for n in names]
    branches = [_branch(x, spec, name=f"branch{n}") for x, n in zip(inputs, names, strict=True)]
    x = branches[0] if levels == 1 else keras.layers.Multiply(name="product")(branches)
    x = _trunk(x, spec)
    hidden = _hidden(x, spec, name="dense") if spec.shared_dense else None
    outputs = [
        _level(_hidden(x, spec, name=f"jnd{n}_dense") if hidden is None else hidden, spec, n, value)
        for n, value in zip(names, start, strict=True)
    ]
    if levels == 1:
        return keras.Model(inputs[0], outputs[0], name=name)
    # As the outputs it joins: under mixed precision it would round them.
    joined = keras.layers.Concatenate(name="levels", dtype="float32")(outputs)
    return keras.Model(inputs, joined, name=name)


def _branch(features: Any, spec: HeadSpec, *, name: str) -> Any:
    """Batch norm, compression where asked for, and the first block of one branch."""
    x = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(features)
    if spec.knee is not None:
        x = SignedLog(spec.knee, name=f"{name}_log")(x)
    return _block(x, spec, 1, name=f"{name}_block1")


def _trunk(x: Any, spec: HeadSpec) -> Any:
    """The other blocks, then one vector per example."""
    for number in range(2, len(spec.filters) + 1):
        x = _block(x, spec, number, name=f"block{number}")
    if spec.pooling == "average":
        return keras.layers.GlobalAveragePooling2D(name="average")(x)
    return keras.layers.Flatten(name="flatten")(x)


def _block(x: Any, spec: HeadSpec, number: int, *, name: str) -> Any:
    """Block `number`, counted from 1, and the pool after it where one is due."""
    x = conv_block(
        x, filters=spec.filters[number - 1], attention_ratio=spec.attention_ratio, name=name
    )
    return halve(x, name=f"{name}_pool") if number % spec.pool_every == 0 else x


def _hidden(x: Any, spec: HeadSpec, *, name: str) -> Any:
    for number, units in enumerate(spec.dense, start=1):
        x = keras.layers.Dense(units, activation="relu", name=f"{name}{number}")(x)
    return x


def _level(x: Any, spec: HeadSpec, suffix: str, initial_level: float) -> Any:
    start: Any = keras.initializers.Constant(initial_level)
    # Always float32: near QP 30 a bfloat16 has steps of an eighth.
    return keras.layers.Dense(
        1,
        activation=spec.output,
        bias_initializer=start,
        dtype="float32",
        name=f"jnd{suffix}_output",
    )(x)
