"""What a stage minimises and measures, per example; reduction comes last, and elsewhere."""

import math
from typing import Any

from keras import ops

PEAK = 255.0


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


def level_objective(levels: Any, targets: Any) -> dict[str, Any]:
    """Mean absolute error of the levels that are there, each weighted alike.

    Args:
      levels: [B, L] float, on the dataset's scale.
      targets: [B, L] float, the true levels; NaN where one is missing.

    Returns:
      "loss": [B], mean over the present levels, 0 where there is none; "jnd1".."jndL": [B],
      absolute error of each, NaN where it is missing.
    """
    levels, targets = ops.cast(levels, "float32"), ops.cast(targets, "float32")
    present = ops.logical_not(ops.isnan(targets))
    # Before the subtraction: a gradient through NaN is NaN, though the result be thrown away.
    error = ops.abs(ops.where(present, levels - ops.where(present, targets, 0.0), 0.0))
    num_present = ops.sum(ops.cast(present, "float32"), axis=1)
    # A factor and not a quotient of sums: where no level is missing it is 1, and changes no bit.
    factor = levels.shape[1] / ops.maximum(num_present, 1.0)
    told = ops.unstack(ops.where(present, error, math.nan), axis=1)
    each = {f"jnd{index}": values for index, values in enumerate(told, start=1)}
    return {"loss": ops.mean(error, axis=1) * factor, **each}
