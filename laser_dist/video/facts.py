"""What a clip is, from its headers and a frame: size, length, and how its picture is coded."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from laser_dist.video.containers import (
    Damage,
    check_size,
    damaged,
    is_still_image,
    name_of,
    open_video,
)
from laser_dist.video.frames import upright_size
from laser_dist.video.packets import (
    decode_frames,
)
from laser_dist.video.pictures import hdr_of

_IMAGE_BRANDS = ("avif", "heic", "heix", "mif1")  # ISO/IEC 23008-12, and AVIF


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """How a clip is coded.

    Attributes:
      width: columns of a frame, upright, in pixels.
      height: rows of a frame, upright, in pixels.
      duration_s: length in seconds; None if the file does not say, 0 for a still image.
      bits: bits per sample.
      hdr: "PQ" or "HLG" of high-dynamic-range video; "" of any other.
      interlaced: whether a frame has two fields, of different times.
      pixel_aspect: width of a pixel divided by its height.
    """

    width: int
    height: int
    duration_s: float | None
    bits: int
    hdr: str
    interlaced: bool
    pixel_aspect: Fraction


def clip_facts(source: bytes | Path) -> ClipFacts:
    """Return the facts of a video or image, from its first frame that decodes.

    Args:
      source: content or path of the file.

    Raises:
      VideoError: the file is missing, not a readable video or image, no frame decodes, or it is
        smaller than 16x16.
    """
    name, damage = name_of(source), Damage()
    with open_video(source, name, damage) as (container, stream):
        frame = next(decode_frames(container, stream, name, damage), None)
        if frame is None:
            raise damaged(name, "it has no frames")
        width, height = upright_size(frame)
        check_size(name, width, height)
        return ClipFacts(
            width=width,
            height=height,
            duration_s=_duration(container, stream),
            bits=max(component.bits for component in frame.format.components),
            hdr=hdr_of(frame),
            interlaced=frame.interlaced_frame,
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        )


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if is_still_image(container) or container.metadata.get("major_brand") in _IMAGE_BRANDS:
        return 0.0
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base
