"""What a stage minimizes and measures, per example; reduction comes last, and elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from laser_dist.jnd.normal_sur import sample_mean

FRAME_WEIGHT, LEVEL_WEIGHT = 0.01, 0.99
"""Of the published end-to-end training: squared error of the frame, absolute error of the level."""

ops: Any = keras.ops  # pyright infers the wrong types of one backend
MEAN_OVER_LEVEL = float(sample_mean(0.0, 1.0))
"""How many standard deviations the mean of a normal distribution lies beyond its first quartile."""


def frame_objective(frames: Any, targets: Any) -> dict[str, Any]:
    """Mean squared error of reconstructed frames.

    Args:
      frames: [B, H, W, 3] float, 0..255.
      targets: [B, H, W, 3] float or uint8, 0..255.

    Returns:
      "loss": [B], mean over pixels and channels of the squared error, in squared code values.
    """
    error = ops.cast(frames, "float32") - ops.cast(targets, "float32")
    return {"loss": ops.mean(ops.square(error), axis=(1, 2, 3))}


@dataclass(frozen=True)
class LevelObjective:
    """Mean absolute error of the levels that are there, each weighted alike.

    Of heads that give the spread, the viewers' likelihood is added: the negative logarithm of a
    normal distribution's density at their samples, mean over the viewers of a level, in nats. The
    level is its first quartile from the better side, where 75 % are satisfied.

    Attributes:
      levels: which JND levels they are, from 1.
      spread: whether predictions are level and spread, and targets level, mean and variance.
      higher_is_worse: direction of the scale.
    """

    levels: tuple[int, ...] = (1, 2, 3)
    spread: bool = False
    higher_is_worse: bool = True

    def __call__(self, predictions: Any, targets: Any) -> dict[str, Any]:
        """Errors per example.

        Args:
          predictions: [B, L] float, on the dataset's scale; with spreads [B, L, 2].
          targets: [B, L] float, the true levels; with spreads [B, L, 3]: level, and mean and
            variance of the samples. NaN where one is missing.

        Returns:
          "loss": [B], mean over the present levels, 0 where there is none; "jnd1".."jndL" of the
          levels: [B], absolute error of each, NaN where it is missing; with spreads
          "likelihood": [B], the negative log-likelihood, mean over the levels that have samples,
          NaN where none has.
        """
        predictions, targets = ops.cast(predictions, "float32"), ops.cast(targets, "float32")
        if not self.spread:
            error, present = _absolute_error(predictions, targets)
            return {"loss": _mean_of_present(error, present), **self._each(error, present)}
        level, spread = predictions[..., 0], predictions[..., 1]
        error, present = _absolute_error(level, targets[..., 0])
        sign = 1.0 if self.higher_is_worse else -1.0
        surprise, told = _negative_log_likelihood(
            level + sign * MEAN_OVER_LEVEL * spread, spread, targets[..., 1], targets[..., 2]
        )
        loss = _mean_of_present(error, present) + _mean_of_present(surprise, told)
        likelihood = ops.where(ops.any(told, axis=1), _mean_of_present(surprise, told), math.nan)
        return {"loss": loss, "likelihood": likelihood, **self._each(error, present)}

    def _each(self, error: Any, present: Any) -> dict[str, Any]:
        columns: Sequence[Any] = ops.unstack(ops.where(present, error, math.nan), axis=1)
        return {f"jnd{level}": each for level, each in zip(self.levels, columns, strict=True)}


@dataclass(frozen=True)
class JointObjective:
    """Of an end-to-end stage: its frame and its level, weighted as published.

    Attributes:
      level: of the level.
    """

    level: LevelObjective

    def __call__(self, predictions: Sequence[Any], targets: Sequence[Any]) -> dict[str, Any]:
        """Errors per example.

        Args:
          predictions: frames [B, H, W, 3] in 0..255, and levels as `LevelObjective` has them.
          targets: the same of the dataset.

        Returns:
          "loss": [B], the weighted sum; "frame": [B], squared error of the frame; and what
          `LevelObjective` gives beside its loss.
        """
        frame = frame_objective(predictions[0], targets[0])["loss"]
        level = self.level(predictions[1], targets[1])
        loss = FRAME_WEIGHT * frame + LEVEL_WEIGHT * level.pop("loss")
        return {"loss": loss, "frame": frame, **level}


def _absolute_error(values: Any, targets: Any) -> tuple[Any, Any]:
    """[B, L] absolute error, 0 where the target is missing, and where it is there."""
    present = ops.logical_not(ops.isnan(targets))
    # Before the subtraction: a gradient through NaN is NaN, though the result be thrown away.
    return ops.abs(ops.where(present, values - ops.where(present, targets, 0.0), 0.0)), present


def _negative_log_likelihood(mean: Any, spread: Any, of: Any, variance: Any) -> tuple[Any, Any]:
    """[B, L] of samples that have a mean `of` and a `variance`, and where there are samples."""
    told = ops.logical_not(ops.isnan(of))
    distance = ops.where(told, mean - ops.where(told, of, 0.0), 0.0)
    squares = ops.square(distance) + ops.where(told, variance, 0.0)
    surprise = ops.log(spread) + squares / (2.0 * ops.square(spread)) + 0.5 * math.log(2 * math.pi)
    return ops.where(told, surprise, 0.0), told


def _mean_of_present(values: Any, present: Any) -> Any:
    """[B]: the mean of [B, L] over what is present; 0 where nothing is."""
    num_present = ops.sum(ops.cast(present, "float32"), axis=1)
    # A factor and not a quotient of sums: where no level is missing it is 1, and changes no bit.
    factor = values.shape[1] / ops.maximum(num_present, 1.0)
    return ops.mean(values, axis=1) * factor
