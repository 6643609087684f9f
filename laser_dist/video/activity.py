"""Spatial and temporal information of a clip (ITU-T P.910)."""

import numpy as np
from numpy.typing import NDArray

from laser_dist.video.frames import Clip, UInt8Array


def spatial_information(clip: Clip) -> float:
    """Compute SI: the maximum over time of the standard deviation of the Sobel-filtered luma.

    Args:
      clip: at least 3x3 pixels.

    Returns:
      At least 0, in luma code values as encoded: 16..235 for video, 0..255 for a JPEG. 0 for flat
      frames.

    Source: ITU-T P.910 (04/2008), section 5.3.1. As there, the filter output excludes a border of
    one pixel.
    """
    return max(float(_sobel_magnitude(luma).std(dtype=np.float64)) for luma in clip.y)


def temporal_information(clip: Clip) -> float:
    """Compute TI: the maximum over time of the standard deviation of the luma frame difference.

    Args:
      clip: of any length.

    Returns:
      At least 0, in luma code values as encoded; 0 for a single frame.

    Source: ITU-T P.910 (04/2008), section 5.3.2.
    """
    return max(
        (
            float(np.subtract(after, before, dtype=np.int16).std(dtype=np.float64))
            for before, after in zip(clip.y[:-1], clip.y[1:], strict=True)
        ),
        default=0.0,
    )


def _sobel_magnitude(luma: UInt8Array) -> NDArray[np.float32]:
    """Return the gradient magnitude [H-2, W-2] of luma [H, W], kernels 1 2 1 by -1 0 1."""
    wide = luma.astype(np.int16)
    smooth_rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    smooth_columns = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    across = (smooth_rows[:, 2:] - smooth_rows[:, :-2]).astype(np.float32)
    down = (smooth_columns[2:] - smooth_columns[:-2]).astype(np.float32)
    return np.sqrt(across * across + down * down)
