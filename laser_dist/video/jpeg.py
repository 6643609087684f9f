"""Encode JPEG in memory, with Pillow and the libjpeg in its wheel.

`laser_dist.video.codec.decode` decodes it with FFmpeg, which reports JPEG's BT.601 matrix and full
range.
"""

import io

from PIL import Image, features

from laser_dist.video.frames import UInt8Array, check_rgb

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for a damaged image of any format."""

QUALITIES = range(1, 101)
"""Quality factors; higher is better."""


def encode_jpeg(rgb: UInt8Array, *, quality: int) -> bytes:
    """Encode one image: baseline, 4:2:0, the standard quantizer tables scaled to `quality`.

    The Huffman tables are standard too. The same input gives the same bytes with the same libjpeg
    (see `jpeg_encoder`).

    Args:
      rgb: [H, W, 3] uint8, full range.
      quality: quality factor of the Independent JPEG Group, 1..100, higher is better. At 100 all
        quantizer steps are 1; color conversion, chroma subsampling and rounding still lose a
        little.

    Returns:
      A JFIF file of the same size; `decode` crops odd sizes.

    Raises:
      ValueError: `rgb` has another shape or dtype, or `quality` is outside 1..100.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality must be in 1..100, got {quality}")
    check_rgb(rgb)
    file = io.BytesIO()
    image = Image.fromarray(rgb)
    image.save(
        file, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False
    )
    return file.getvalue()


def jpeg_encoder() -> tuple[str, str]:
    """Return name and version of the JPEG library, such as ("libjpeg-turbo", "3.1.0")."""
    if features.check_feature("libjpeg_turbo"):
        return "libjpeg-turbo", features.version_feature("libjpeg_turbo") or "unknown"
    return "libjpeg", features.version_codec("jpg") or "unknown"
