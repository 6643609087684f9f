"""Files that Pillow decodes and FFmpeg does not, as lossless files that it does.

These are animated WebP, and TIFF with a compression or colors that FFmpeg's decoder lacks: it gives
a black picture for some of them.
"""

# PyAV's stubs leave the stream type of the packets that `encode` returns open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import io
from collections.abc import Generator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, ImageOps, ImageSequence, TiffImagePlugin, UnidentifiedImageError

from laser_dist.storage import limit

PILLOW_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the image formats that are read."""

MAX_ANIMATION_PIXELS = limit("MAX_ANIMATION_PIXELS", 1 << 29)
"""Most pixels of all frames of an animation: about 250 frames of 1080p."""

_MILLISECOND = Fraction(1, 1000)
_TIFF = (b"II*\0", b"MM\0*")
_COMPRESSION, _PHOTOMETRIC = 259, 262  # tags of TIFF 6.0
# None, CCITT, LZW, deflate (by two numbers), and PackBits.
_COMPRESSIONS_OF_FFMPEG = (1, 2, 3, 4, 5, 8, 32946, 32773)
_YCBCR, _LAB = 6, 8
_MODES_OF_PNG = ("1", "L", "LA", "RGB", "RGBA", "I;16")


class PillowError(Exception):
    """Why Pillow does not give a picture, in a few words."""


def video_of(file: BinaryIO) -> BinaryIO | None:
    """Return an animated WebP file as FFV1 in Matroska, with its alpha; None for any other file.

    Args:
      file: the file; its position changes.

    Raises:
      PillowError: Pillow cannot decode it, or it is above `MAX_ANIMATION_PIXELS`.
    """
    file.seek(0)
    start = file.read(21)
    # RFC 9649, section 2.7: the second bit of the flags is that of an animation.
    if start[:4] != b"RIFF" or start[8:16] != b"WEBPVP8X" or not start[20] & 2:
        return None
    video = io.BytesIO()
    with _converting_errors(), Image.open(file, formats=("WEBP",)) as image:
        num_pixels = image.width * image.height * getattr(image, "n_frames", 1)
        if num_pixels > MAX_ANIMATION_PIXELS:
            raise PillowError(
                f"its frames have {num_pixels:,} pixels; the limit is {MAX_ANIMATION_PIXELS:,}"
            )
        with av.open(video, "w", format="matroska") as container:
            stream = container.add_stream("ffv1", rate=1000)
            stream.width, stream.height, stream.pix_fmt = image.width, image.height, "bgra"
            time = 0
            for each in ImageSequence.Iterator(image):
                rgba = np.asarray(each.convert("RGBA"))
                frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format="bgra")
                frame.pts, frame.time_base = time, _MILLISECOND
                container.mux(stream.encode(frame))
                time += int(each.info.get("duration", 0)) or 1
            container.mux(stream.encode())
    video.seek(0)
    return video


def picture_of(file: BinaryIO, *, max_pixels: int) -> BinaryIO | None:
    """Return the first picture of a TIFF file that FFmpeg does not decode as an upright PNG file.

    Args:
      file: the file; its position changes.
      max_pixels: most pixels of the picture.

    Returns:
      The PNG file; None for any other file, or one that Pillow does not know.

    Raises:
      PillowError: Pillow cannot decode it or convert its colors, or it has too many pixels.
    """
    file.seek(0)
    if file.read(4) not in _TIFF:
        return None
    file.seek(0)
    try:
        with _converting_errors():
            image = Image.open(file, formats=("TIFF",))
    except UnidentifiedImageError:
        return None
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    tags = image.tag_v2
    if tags.get(_COMPRESSION, 1) in _COMPRESSIONS_OF_FFMPEG and tags.get(_PHOTOMETRIC) not in (
        _YCBCR,
        _LAB,
    ):
        return None
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise PillowError(f"it has {size} pixels; the limit is {max_pixels:,}")
    if image.mode in ("I", "F"):
        raise PillowError("its samples have 32 bits")
    picture = io.BytesIO()
    with _converting_errors():
        upright = ImageOps.exif_transpose(image)
        mode = upright.mode if upright.mode in _MODES_OF_PNG else "RGB"
        upright.convert(mode).save(picture, "PNG", compress_level=1)
    picture.seek(0)
    return picture


def size_of(file: BinaryIO) -> tuple[int, int] | None:
    """Return the width and height that an image states, without decoding it; None if unknown.

    Args:
      file: the file; its position changes.
    """
    file.seek(0)
    try:
        with _converting_errors():
            return Image.open(file, formats=PILLOW_FORMATS).size
    except (PillowError, UnidentifiedImageError):
        return None


@contextmanager
def _converting_errors() -> Generator[None]:
    """Turn Pillow's errors inside the block into `PillowError`, but not those of the disk."""
    try:
        yield
    except UnidentifiedImageError:
        raise
    except Image.DecompressionBombError as error:
        raise PillowError("it has more pixels than Pillow takes") from error
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PillowError(f'Pillow reports "{error}"') from error
