"""Losses and metrics of the stages, per example; the step reduces them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from laser_dist.jnd.normal_sur import sample_mean

FRAME_WEIGHT, LEVEL_WEIGHT = 0.01, 0.99
"""Published weights of end-to-end training: the frame's squared and the level's absolute error."""

ops: Any = keras.ops  # pyright infers the wrong types of one backend
MEAN_OVER_LEVEL = float(sample_mean(0.0, 1.0))
"""Distance of a normal distribution's mean from its first quartile, in standard deviations."""


def frame_objective(frames: Any, targets: Any) -> dict[str, Any]:
    """Compute the mean squared error of reconstructed frames.

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
    """Mean absolute error of the present levels, all with the same weight.

    For heads that predict the spread, the negative log-likelihood of the viewers' samples is added:
    the negative logarithm of a normal distribution's density, mean over the viewers of a level, in
    nats. The level is its first quartile from the better side, where 75% are satisfied.

    Attributes:
      levels: JND levels of the predictions, from 1.
      spread: whether predictions are level and spread, and targets level, mean and variance.
      higher_is_worse: direction of the scale.
    """

    levels: tuple[int, ...] = (1, 2, 3)
    spread: bool = False
    higher_is_worse: bool = True

    def __call__(self, predictions: Any, targets: Any) -> dict[str, Any]:
        """Compute errors per example.

        Args:
          predictions: [B, L] float, on the dataset's scale; with spreads [B, L, 2].
          targets: [B, L] float, the true levels; with spreads [B, L, 3]: level, and mean and
            variance of the samples. NaN where a level is missing.

        Returns:
          "loss": [B], mean over the present levels, 0 if there is none; "jnd1".."jndL": [B],
          absolute error of each level, NaN where it is missing; with spreads "likelihood": [B], the
          negative log-likelihood, mean over the levels that have samples, NaN if none has.
        """
        predictions, targets = ops.cast(predictions, "float32"), ops.cast(targets, "float32")
        if not self.spread:
            error, present = _absolute_error(predictions, targets)
            return {"loss": _mean_of_present(error, present), **self._each(error, present)}
        level, spread = predictions[..., 0], predictions[..., 1]
        error, present = _absolute_error(level, targets[..., 0])
        sign = 1.0 if self.higher_is_worse else -1.0
        surprise, has_samples = _negative_log_likelihood(
            level + sign * MEAN_OVER_LEVEL * spread, spread, targets[..., 1], targets[..., 2]
        )
        loss = _mean_of_present(error, present) + _mean_of_present(surprise, has_samples)
        likelihood = ops.where(
            ops.any(has_samples, axis=1), _mean_of_present(surprise, has_samples), math.nan
        )
        return {"loss": loss, "likelihood": likelihood, **self._each(error, present)}

    def _each(self, error: Any, present: Any) -> dict[str, Any]:
        columns: Sequence[Any] = ops.unstack(ops.where(present, error, math.nan), axis=1)
        return {f"jnd{level}": each for level, each in zip(self.levels, columns, strict=True)}


@dataclass(frozen=True)
class JointObjective:
    """Objective of an end-to-end stage: frame and level, weighted as published.

    Attributes:
      level: objective of the level.
    """

    level: LevelObjective

    def __call__(self, predictions: Sequence[Any], targets: Sequence[Any]) -> dict[str, Any]:
        """Compute errors per example.

        Args:
          predictions: frames [B, H, W, 3] in 0..255, and levels as for `LevelObjective`.
          targets: frames and levels of the dataset.

        Returns:
          "loss": [B], the weighted sum; "frame": [B], squared error of the frame; and the other
          values of `LevelObjective`.
        """
        frame = frame_objective(predictions[0], targets[0])["loss"]
        level = self.level(predictions[1], targets[1])
        loss = FRAME_WEIGHT * frame + LEVEL_WEIGHT * level.pop("loss")
        return {"loss": loss, "frame": frame, **level}


def _absolute_error(values: Any, targets: Any) -> tuple[Any, Any]:
    """Return the absolute error, 0 where the target is missing, and where it is present: [B, L]."""
    present = ops.logical_not(ops.isnan(targets))
    # Before the subtraction: a gradient through NaN is NaN, even if the result is not used.
    return ops.abs(ops.where(present, values - ops.where(present, targets, 0.0), 0.0)), present


def _negative_log_likelihood(mean: Any, spread: Any, of: Any, variance: Any) -> tuple[Any, Any]:
    """Return [B, L] for samples of mean `of` and `variance`, and [B, L] bool: there are samples."""
    has_samples = ops.logical_not(ops.isnan(of))
    distance = ops.where(has_samples, mean - ops.where(has_samples, of, 0.0), 0.0)
    squares = ops.square(distance) + ops.where(has_samples, variance, 0.0)
    surprise = ops.log(spread) + squares / (2.0 * ops.square(spread)) + 0.5 * math.log(2 * math.pi)
    return ops.where(has_samples, surprise, 0.0), has_samples


def _mean_of_present(values: Any, present: Any) -> Any:
    """Return [B]: the mean of [B, L] over what is present; 0 if nothing is."""
    num_present = ops.sum(ops.cast(present, "float32"), axis=1)
    # A factor, not a quotient of sums: it is 1 if no level is missing, and then changes no bit.
    factor = values.shape[1] / ops.maximum(num_present, 1.0)
    return ops.mean(values, axis=1) * factor
