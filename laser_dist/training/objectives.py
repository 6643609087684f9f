"""What a stage minimises and measures, per example; reduction comes last, and elsewhere."""

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
    """Mean absolute error of levels, weighted 1:1:1.

    Args:
      levels: [B, L] float, on the dataset's scale.
      targets: [B, L] float, the true levels.

    Returns:
      "loss": [B], mean over levels; "jnd1".."jndL": [B], absolute error of each.
    """
    error = ops.abs(ops.cast(levels, "float32") - ops.cast(targets, "float32"))
    each = {f"jnd{index}": level for index, level in enumerate(ops.unstack(error, axis=1), start=1)}
    return {"loss": ops.mean(error, axis=1), **each}
