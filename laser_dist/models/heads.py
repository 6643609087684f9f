"""Heads: from the features of one or three backbones to JND levels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras

from laser_dist.models.layers import (
    OrderedLevels,
    SignedLog,
    conv_block,
    halve,
)
from laser_dist.models.specs import HeadSpec

LEAST_SPREAD = 0.25
"""Lower bound in quantizers: without it the likelihood diverges where all viewers agree."""
_LEAST_STEP = 0.1  # initial quantizers between levels, if the given ones do not ascend


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
    """Build a head with new weights: one branch and output per level.

    Args:
      spec: size and form.
      feature_shape: (h, w, c) of the features of one branch, such as `BackboneSpec.latent_shape`.
      levels: number of branches and of predicted levels, 1 or 3.
      initial_levels: [levels] initial outputs on the dataset's scale, such as the means of the
        training set; None for 0. Ordered levels start in order.
      initial_spreads: [levels] initial spreads, above `LEAST_SPREAD`; None for 1.
      higher_is_worse: direction of the scale, along which levels are ordered.
      name: name of the model.

    Returns:
      Model from float32 [B, h, w, c], or a list of three such for three levels, to float32
      [B, levels] on the dataset's scale; with spreads [B, levels, 2]: level and spread.

    Raises:
      ValueError: `levels` is neither 1 nor 3, initial values have another length, or an initial
        spread is not above `LEAST_SPREAD`.
    """
    if levels not in (1, 3):
        raise ValueError(f"levels must be 1 or 3, got {levels}")
    start = _start(initial_levels, levels, "initial_levels", default=0.0)
    spreads = _start(initial_spreads, levels, "initial_spreads", default=1.0)
    if min(spreads) <= LEAST_SPREAD:
        raise ValueError(f"initial_spreads must be above {LEAST_SPREAD}, got {spreads}")
    above_least = [value - LEAST_SPREAD for value in spreads]
    if spec.ordered:
        start = _steps(start, higher_is_worse)
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
    result = _joined(outputs, name="levels")
    if spec.ordered and levels > 1:
        result = OrderedLevels(higher_is_worse, name="ordered", dtype="float32")(result)
    if spec.spread:
        widths = [
            _least(_output(each, "softplus", _inverse_softplus(value), name=f"jnd{n}_spread"), n)
            for each, n, value in zip(hidden, names, above_least, strict=True)
        ]
        pair = [result, _joined(widths, name="spreads")]
        result = keras.layers.Concatenate(name="level_and_spread", dtype="float32")(
            [keras.layers.Reshape((levels, 1), dtype="float32")(each) for each in pair]
        )
    return keras.Model(inputs[0] if levels == 1 else inputs, result, name=name)


def _least(spread: Any, suffix: str) -> Any:
    """Return a spread that is never below `LEAST_SPREAD`."""
    offset = keras.layers.Rescaling(
        1.0, offset=LEAST_SPREAD, dtype="float32", name=f"jnd{suffix}_least_spread"
    )
    return offset(spread)


def _start(
    values: Sequence[float] | None, levels: int, name: str, *, default: float
) -> tuple[float, ...]:
    start = (default,) * levels if values is None else tuple(map(float, values))
    if len(start) != levels:
        raise ValueError(f"{name} must hold {levels} values, got {len(start)}")
    return start


def _steps(levels: Sequence[float], higher_is_worse: bool) -> tuple[float, ...]:
    """Return the inputs for which `OrderedLevels` gives these levels, at least a step apart."""
    pairs = itertools.pairwise(levels)
    steps = [later - sooner if higher_is_worse else sooner - later for sooner, later in pairs]
    return (levels[0], *(_inverse_softplus(max(step, _LEAST_STEP)) for step in steps))


def _inverse_softplus(value: float) -> float:
    """Return the input for which softplus gives `value`, above 0."""
    return value + math.log(-math.expm1(-value))


def _joined(outputs: Sequence[Any], *, name: str) -> Any:
    """Concatenate L times [B, 1] to [B, L] in float32: mixed precision would round them."""
    if len(outputs) == 1:
        return outputs[0]
    return keras.layers.Concatenate(name=name, dtype="float32")(outputs)


def _branch(features: Any, spec: HeadSpec, *, name: str) -> Any:
    """Apply batch norm, compression if configured, and the first block of one branch."""
    x = keras.layers.BatchNormalization(momentum=spec.norm_momentum, name=f"{name}_norm")(features)
    if spec.knee is not None:
        x = SignedLog(spec.knee, name=f"{name}_log")(x)
    return _block(x, spec, 1, name=f"{name}_block1")


def _trunk(x: Any, spec: HeadSpec) -> Any:
    """Apply the other blocks, then reduce to one vector per example."""
    for number in range(2, len(spec.filters) + 1):
        x = _block(x, spec, number, name=f"block{number}")
    if spec.pooling == "average":
        return keras.layers.GlobalAveragePooling2D(name="average")(x)
    return keras.layers.Flatten(name="flatten")(x)


def _block(x: Any, spec: HeadSpec, number: int, *, name: str) -> Any:
    """Apply block `number`, counted from 1, and the pool after it if one is due."""
    x = conv_block(
        x,
        filters=spec.filters[number - 1],
        attention_ratio=spec.attention_ratio,
        norm_momentum=spec.norm_momentum,
        name=name,
    )
    return halve(x, name=f"{name}_pool") if number % spec.pool_every == 0 else x


def _hidden(x: Any, spec: HeadSpec, *, name: str) -> Any:
    for number, units in enumerate(spec.dense, start=1):
        x = keras.layers.Dense(units, activation="relu", name=f"{name}{number}")(x)
    return x


def _output(x: Any, activation: str, bias: float, *, name: str) -> Any:
    start: Any = keras.initializers.Constant(bias)
    # Always float32: near QP 30, bfloat16 has steps of 1/8.
    return keras.layers.Dense(
        1, activation=activation, bias_initializer=start, dtype="float32", name=name
    )(x)
