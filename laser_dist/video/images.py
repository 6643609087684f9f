"""Images with Pillow: open them, and encode JPEG in memory, with the libjpeg in Pillow's wheel.

Every image that Pillow reads is opened here, in a format of a fixed list: others start programs
(EPS) or are read by nobody here. `laser_dist.video.codec.decode` decodes JPEG with FFmpeg, which
reports its BT.601 matrix and full range.
"""

import io
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, features

from laser_dist.storage import limit, open_regular
from laser_dist.storage.retries import is_transient
from laser_dist.video.containers import MAX_PIXELS, VideoError
from laser_dist.video.frames import UInt8Array, check_rgb
from laser_dist.video.through_pillow import PILLOW_FORMATS

MAX_IMAGE_BYTES = limit("MAX_IMAGE_BYTES", 1 << 30)
"""Largest image file, 1 GiB."""

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

QUALITIES = range(1, 101)
"""Quality factors; higher is better."""


@contextmanager
def open_image(source: bytes | Path, name: str) -> Generator[Image.Image]:
    """Open an image file; convert Pillow errors inside the block.

    Args:
      source: content or path of the file.
      name: name of the file in error messages.

    Raises:
      VideoError: the file is missing, not a regular file, too large, damaged, or not an image of
        a supported format.
    """
    hint = "Replace it with a complete copy, or leave it out."
    try:
        with (
            (
                io.BytesIO(source)
                if isinstance(source, bytes)
                else open_regular(source, max_bytes=MAX_IMAGE_BYTES, hint=hint, error=VideoError)
            ) as file,
            Image.open(file, formats=PILLOW_FORMATS) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels are too many")
            yield image
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno and is_transient(error):
            raise  # the disk failed
        raise VideoError(f"Cannot decode {name}: {error}.", hint=hint) from error


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
