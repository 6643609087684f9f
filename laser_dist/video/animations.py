"""Animated WebP, which FFmpeg does not decode, as a lossless video that it does."""

# PyAV's stubs leave the stream type of the packets that `encode` returns open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import io
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, ImageSequence

from laser_dist.storage import limit

MAX_ANIMATION_PIXELS = limit("MAX_ANIMATION_PIXELS", 1 << 29)
"""Most pixels of all frames of an animation: about 250 frames of 1080p."""

_MILLISECOND = Fraction(1, 1000)


def video_of(file: BinaryIO) -> BinaryIO | None:
    """Return an animated WebP file as FFV1 in Matroska, with its alpha; None for any other file.

    Args:
      file: the file; its position changes.

    Raises:
      ValueError: the animation is above `MAX_ANIMATION_PIXELS`.
      OSError: Pillow cannot decode it.
    """
    file.seek(0)
    start = file.read(21)
    # RFC 9649, section 2.7: the second bit of the flags is that of an animation.
    if start[:4] != b"RIFF" or start[8:16] != b"WEBPVP8X" or not start[20] & 2:
        return None
    video = io.BytesIO()
    with Image.open(file, formats=("WEBP",)) as image:
        num_pixels = image.width * image.height * getattr(image, "n_frames", 1)
        if num_pixels > MAX_ANIMATION_PIXELS:
            raise ValueError(f"{num_pixels:,} pixels; the limit is {MAX_ANIMATION_PIXELS:,}")
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
