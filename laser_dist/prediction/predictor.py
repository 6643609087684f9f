"""A trained predictor, whichever library runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale
from laser_dist.models.predictor_spec import PredictorSpec

_LARGEST = 1e30  # of one number: above it, sums over frames could overflow
# How TensorFlow, ONNX Runtime and OpenVINO say that memory is short.
_NO_MEMORY = ("ResourceExhaustedError", "Failed to allocate memory", "bad_alloc", "bad allocation")


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """A model and the properties of its input and output.

    Attributes:
      forward: frames uint8 [B, H, W, 3], RGB, to levels float32 [B, L], or to levels and spreads
        [B, L, 2]. Several threads may call it.
      width: frame width in pixels.
      height: frame height in pixels.
      spec: meaning of the output: the L levels, their scale, with or without spreads.
      scale: scale of the levels.
      runtime: what runs the model, such as "ONNX Runtime 1.32".
      origin: name of the model in errors, such as its file.
      num_parameters: number of weights; 0 if unknown.
    """

    forward: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    width: int
    height: int
    spec: PredictorSpec
    scale: Scale
    runtime: str
    origin: str = "The model"
    num_parameters: int = 0


def run_in_batches(
    forward: Callable[[NDArray[np.uint8]], Any],
    frames: NDArray[np.uint8],
    batch_size: int,
    origin: str,
) -> NDArray[np.float32]:
    """Run a model on some frames at a time, so that few are in memory as float32.

    Args:
      forward: the model.
      frames: uint8 [N, H, W, 3], N at least 1.
      batch_size: frames per call.
      origin: name of the model in errors.

    Raises:
      UserError: the model fails, needs more memory than is free (the cause is a MemoryError), or
        predicts NaN, infinity or numbers of which a sum could overflow.
    """
    starts = range(0, len(frames), batch_size)
    try:
        parts = [np.asarray(forward(frames[start : start + batch_size])) for start in starts]
    except Exception as error:  # the libraries have no common error for layers that do not fit
        if isinstance(error, MemoryError) or any(text in repr(error) for text in _NO_MEMORY):
            raise UserError(
                f"{origin} needs more memory than is free.",
                hint="Close other programs, or use a smaller model.",
            ) from MemoryError(error)
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise unusable(origin, f"nothing ({cause})") from error
    predicted = np.concatenate(parts).astype(np.float32)
    if not (np.abs(predicted) <= _LARGEST).all():
        raise unusable(origin, "numbers that are not finite")
    return predicted


def unusable(origin: str, what: str) -> UserError:
    """Return the error for a model that does not predict levels."""
    return UserError(f"{origin} predicts {what}.", hint="Train again, or name another model.")


def wrong_shapes(origin: str, inputs: Any, outputs: Any, spec: PredictorSpec) -> UserError:
    """Return the error for a model that does not map frames to the output of its spec."""
    return UserError(
        f"{origin} maps {inputs} to {outputs}, not RGB frames to {spec.output_shape}.",
        hint="Train again, or name another model.",
    )
