"""Visibility of coding errors: error relative to the threshold set by the content around it."""

# SciPy ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from laser_dist.video.frames import Clip

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MaskingModel:
    """Threshold of visibility of an error, in luma code values, given its surroundings.

    `threshold = base * luminance * (1 + texture * S ** exponent + motion * M)` with S the local
    standard deviation of the reference and M the local mean absolute difference to the previous
    frame. `luminance` is 1 at mid gray and rises toward dark and bright (Chou and Li 1995).

    The defaults are set so that a panel of `simulation.observers` gives synthetic clips levels
    spread like VideoSet's at 640x360.

    Attributes:
      base: threshold on a flat, static, mid-gray background, in code values.
      texture: masking by texture, per code value of S raised to `exponent`.
      exponent: exponent of S, at most 1: masking grows slower than contrast.
      motion: masking by motion, per code value of M.
      acuity_px: standard deviation of the eye's blur, in pixels.
      neighborhood_px: standard deviation of the Gaussian window of S, M and the error.
      pooling: Minkowski exponent over space and time; the higher, the more the worst position
        counts.
    """

    base: float = 0.43
    texture: float = 0.35
    exponent: float = 0.6
    motion: float = 0.1
    acuity_px: float = 0.7
    neighborhood_px: float = 4.0
    pooling: float = 2.0


def visibility_threshold(reference: Clip, model: MaskingModel) -> Array:
    """Compute the threshold of visibility at every pixel.

    Args:
      reference: the clip to compare with.
      model: masking model.

    Returns:
      [T, H, W] float32, in luma code values, above zero.
    """
    luma = reference.y.astype(np.float32)
    mean = _blur(luma, model.neighborhood_px)
    variance = _blur(luma**2, model.neighborhood_px) - mean**2
    texture = np.sqrt(np.maximum(variance, 0.0))
    change = np.abs(np.diff(luma, axis=0, prepend=luma[:1]))
    if len(luma) > 1:
        change[0] = change[1]  # the first frame has no previous one
    motion = _blur(change, model.neighborhood_px)
    masking = 1.0 + model.texture * texture**model.exponent + model.motion * motion
    return (model.base * _luminance_adaptation(mean) * masking).astype(np.float32)


def visibility(reference: Clip, distorted: Clip, threshold: Array, model: MaskingModel) -> float:
    """Compute the visibility of the difference between two clips; 1 is about the threshold.

    Args:
      reference: the clip to compare with.
      distorted: a clip of the same size and length.
      threshold: [T, H, W], `visibility_threshold` of the reference.
      model: masking model.

    Returns:
      Minkowski mean over space and time of local error over local threshold; 0 for equal clips.

    Raises:
      ValueError: the clips differ in shape.
    """
    if reference.y.shape != distorted.y.shape:
        raise ValueError(f"Clips differ in shape: {reference.y.shape} and {distorted.y.shape}.")
    error = distorted.y.astype(np.float32) - reference.y.astype(np.float32)
    energy = _blur(_blur(error, model.acuity_px) ** 2, model.neighborhood_px)
    ratio = np.sqrt(energy) / threshold
    return float(np.mean(ratio**model.pooling) ** (1.0 / model.pooling))


def _blur(frames: Array, sigma: float) -> Array:
    """Apply a Gaussian blur within each frame, none over time."""
    blurred = ndimage.gaussian_filter(frames, (0.0, sigma, sigma), mode="nearest", truncate=2.5)
    return cast(Array, blurred)


def _luminance_adaptation(mean: Array) -> Array:
    """Return the threshold factor of the background: 1 at mid gray, higher in dark and bright.

    Source: Chou and Li 1995, "A perceptually tuned subband image coder", the visibility threshold
    due to background luminance: 17 (1 - sqrt(L / 127)) + 3 up to 127 and 3 / 128 (L - 127) + 3
    above, divided by the 3 of mid gray.
    """
    dark = 17.0 * (1.0 - np.sqrt(np.clip(mean, 0.0, 127.0) / 127.0))
    bright = 3.0 / 128.0 * np.maximum(mean - 127.0, 0.0)
    return (1.0 + (dark + bright) / 3.0).astype(np.float32)
