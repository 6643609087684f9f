"""JPEG at a quality factor, through Pillow and the libjpeg that it brings; in memory.

`laser_dist.video.codec.decode` reads it back: FFmpeg's decoder, whose frames state JPEG's BT.601
matrix and full range.
"""

import io

import numpy as np
from PIL import Image, features

from laser_dist.video.frames import UInt8Array

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow answers a damaged image file with, of whatever format."""

QUALITIES = range(1, 101)
"""Quality factors; higher is better."""


def encode_jpeg(rgb: UInt8Array, *, quality: int) -> bytes:
    """Code one image: baseline, 4:2:0, the standard's quantizer tables scaled to `quality`.

    Huffman tables are the standard's as well. The same input gives the same bytes with the same
    libjpeg (`jpeg_encoder`).

    Args:
      rgb: [H, W, 3] uint8, full range.
      quality: the Independent JPEG Group's factor, 1 to 100, higher is better. At 100 all
        quantizer steps are 1: color conversion, chroma's halving and rounding still lose a little.

    Returns:
      A JFIF file, sizes as given: odd ones are cropped by `decode`.

    Raises:
      ValueError: another shape or type, or `quality` outside 1..100.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality must be in 1..100, got {quality}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {rgb.shape}")
    file = io.BytesIO()
    image = Image.fromarray(rgb)
    image.save(
        file, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False
    )
    return file.getvalue()


def jpeg_encoder() -> tuple[str, str]:
    """Name and version of what codes here, such as ("libjpeg-turbo", "3.1.0")."""
    if features.check_feature("libjpeg_turbo"):
        return "libjpeg-turbo", features.version_feature("libjpeg_turbo") or "unknown"
    return "libjpeg", features.version_codec("jpg") or "unknown"
