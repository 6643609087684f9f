"""Heads: from features of one or three backbones to JND levels. They know no pixels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras

from laser_dist.models.layers import (
    NORM_MOMENTUM,
    OrderedLevels,
    SignedLog,
    conv_block,
    halve,
)
from laser_dist.models.specs import HeadSpec

LEAST_SPREAD = 0.25
"""In quantizers. Where all viewers agree the likelihood would grow without end."""
_LEAST_STEP = 0.1  # quantizers between levels at the start, where the given ones do not ascend


def build_head(
    spec: HeadSpec,
    feature_shape: tuple[int, int, int],
    *,
    levels: int,
    initial_levels: Sequence[float] | None = None,
    initial_spreads: Sequence[float] | None = None,
    higher_is_worse: bool = True,
    name: str = "head",
) -> keras.Model:
    """A head with fresh weights: one branch and output per level.

    Args:
      spec: its size and form.
      feature_shape: (h, w, c) of one branch's features, as of `BackboneSpec.latent_shape`.
      levels: number of branches and of predicted levels, 1 or 3.
      initial_levels: [levels] where the levels start, on the dataset's scale, such as the training
        set's means; None starts at 0. Ordered ones start in order.
      initial_spreads: [levels] where the spreads start, above `LEAST_SPREAD`; None starts at 1.
      higher_is_worse: direction of the scale, along which ordered levels go.
      name: the model's name.

    Returns:
      Model from float32 [B, h, w, c], or a list of three such for three levels, to float32
      [B, levels] on the dataset's scale; with spreads [B, levels, 2]: level and spread.

    Raises:
      ValueError: `levels` is neither 1 nor 3, or start values are of another length, or a spread
        is not above the least.
    """
    if levels not in (1, 3):
        raise ValueError(f"Head levels: expected 1 or 3, got {levels}.")
    start = _start(initial_levels, levels, "initial_levels", default=0.0)
    spreads = _start(initial_spreads, levels, "initial_spreads", default=1.0)
    if min(spreads) <= LEAST_SPREAD:
        raise ValueError(f"Head initial_spreads: expected above {LEAST_SPREAD}, got {spreads}.")
    above_least = [value - LEAST_SPREAD for value in spreads]
    if spec.ordered:
        start = _unordered(start, higher_is_worse)
    names = ("",) if levels == 1 else ("1", "2", "3")
    inputs = [keras.Input(feature_shape, name=f"features{n}", dtype="float32") for n in names]
    branches = [_branch(x, spec, name=f"branch{n}") for x, n in zip(inputs, names, strict=True)]
    x = branches[0] if levels == 1 else keras.layers.Multiply(name="product")(branches)
    x = _trunk(x, spec)
    hidden = (
        [_hidden(x, spec, name="dense")] * levels
        if spec.shared_dense
        else [_hidden(x, spec, name=f"jnd{n}_dense") for n in names]
    )
    outputs = [
        _output(each, spec.output, value, name=f"jnd{n}_output")
        for each, n, value in zip(hidden, names, start, strict=True)
    ]
    answer = _joined(outputs, name="levels")
    if spec.ordered and levels > 1:
        answer = OrderedLevels(higher_is_worse, name="ordered", dtype="float32")(answer)
    if spec.spread:
        widths = [
            _least(_output(each, "softplus", _before_softplus(value), name=f"jnd{n}_spread"), n)
            for each, n, value in zip(hidden, names, above_least, strict=True)
        ]
        pair = [answer, _joined(widths, name="spreads")]
        answer = keras.layers.Concatenate(name="level_and_spread", dtype="float32")(
            [keras.layers.Reshape((levels, 1), dtype="float32")(each) for each in pair]
        )
    return keras.Model(inputs[0] if levels == 1 else inputs, answer, name=name)


def _least(spread: Any, suffix: str) -> Any:
    """A spread that is never below `LEAST_SPREAD`."""
    offset = keras.layers.Rescaling(
        1.0, offset=LEAST_SPREAD, dtype="float32", name=f"jnd{suffix}_least_spread"
    )
    return offset(spread)


def _start(
    values: Sequence[float] | None, levels: int, what: str, *, default: float
) -> tuple[float, ...]:
    start = (default,) * levels if values is None else tuple(map(float, values))
    if len(start) != levels:
        raise ValueError(f"Head {what}: expected {levels} values, got {len(start)}.")
    return start


def _unordered(levels: Sequence[float], higher_is_worse: bool) -> tuple[float, ...]:
    """What `OrderedLevels` turns into these levels, of which no two may be alike or in disorder."""
    pairs = itertools.pairwise(levels)
    steps = [later - sooner if higher_is_worse else sooner - later for sooner, later in pairs]
    return (levels[0], *(_before_softplus(max(step, _LEAST_STEP)) for step in steps))


def _before_softplus(value: float) -> float:
    """What softplus turns into `value`, above 0."""
    return value + math.log(-math.expm1(-value))


def _joined(outputs: Sequence[Any], *, name: str) -> Any:
    """[B, L] of L times [B, 1], in float32: under mixed precision it would round them."""
    if len(outputs) == 1:
        return outputs[0]
    return keras.layers.Concatenate(name=name, dtype="float32")(outputs)


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


def _output(x: Any, activation: str, bias: float, *, name: str) -> Any:
    start: Any = keras.initializers.Constant(bias)
    # Always float32: near QP 30 a bfloat16 has steps of an eighth.
    return keras.layers.Dense(
        1, activation=activation, bias_initializer=start, dtype="float32", name=name
    )(x)
