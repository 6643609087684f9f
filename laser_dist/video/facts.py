"""What a clip is, from its headers and first frame: size, length, and how its picture is coded."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from laser_dist.video.containers import damaged, decode_frames, is_still_image, name_of, open_video
from laser_dist.video.frames import upright_size

# FFmpeg's AVColorTransferCharacteristic: SMPTE ST 2084, and ARIB STD-B67.
_HDR = {16: "PQ", 18: "HLG"}


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
    """Return the facts of a video or image.

    Args:
      source: content or path of the file.

    Raises:
      VideoError: the file is missing, not a readable video or image, or its first frame does not
        decode.
    """
    name = name_of(source)
    with open_video(source, name) as (container, stream):
        frame = next(decode_frames(container, stream, name), None)
        if frame is None:
            raise damaged(name, "it has no frames")
        width, height = upright_size(frame)
        return ClipFacts(
            width=width,
            height=height,
            duration_s=_duration(container, stream),
            bits=max(component.bits for component in frame.format.components),
            hdr=_HDR.get(frame.color_trc, ""),
            interlaced=frame.interlaced_frame,
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        )


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if is_still_image(container):
        return 0.0
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base
