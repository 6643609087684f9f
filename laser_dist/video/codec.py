"""Encode H.264 at VideoSet's settings, and decode video and images, in memory.

Encoder and decoder run in this process, on one thread, through the FFmpeg libraries in PyAV's
wheel. Nothing is written to disk.
"""

# PyAV's stubs leave the stream type of the packets that `encode` returns open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext

from laser_dist.storage import limit
from laser_dist.video.containers import (
    VideoError,
    check_num_frames,
    check_size,
    damaged,
    frame_rate,
    is_still_image,
    name_of,
    open_video,
    presentation_time,
)
from laser_dist.video.frames import (
    UNSPECIFIED_MATRIX,
    UNSPECIFIED_RANGE,
    UPRIGHT,
    VIDEO,
    Clip,
    Planes,
    display_matrix,
    upright_color,
    upright_planes,
    upright_size,
)
from laser_dist.video.packets import (
    decode_frames,
)

MAX_CLIP_BYTES = limit("MAX_CLIP_BYTES", 2 << 30)
"""Largest clip in memory, encoded or decoded, 2 GiB: 23 s of 1080p at 30 frames per second."""

MAX_CLIP_FRAMES = limit("MAX_CLIP_FRAMES", 3000)
"""Most frames of a clip in memory."""

_QPS = range(52)  # 8-bit H.264
_SLICES = range(1, 6)  # types of NAL units, ITU-T H.264, table 7-1


@dataclass(frozen=True, kw_only=True)
class X264Settings:
    """x264 options that affect the encoded pictures; the defaults are VideoSet's.

    Source: Wang et al. 2017, arXiv 1701.01500, and the SEI of VideoSet's own streams (x264 core
    148). Names and values are those of the x264 command line, with `_` for `-`.
    """

    cabac: int = 1
    ref: int = 3
    deblock: str = "0,0"
    # The SEI's analyse=0x3:0x111. The library default would add i8x8 in P frames (0x113).
    partitions: str = "p8x8,b8x8,i4x4"
    me: str = "umh"
    subme: int = 9
    psy: int = 0
    mixed_refs: int = 1
    merange: int = 128
    chroma_me: int = 1
    trellis: int = 2
    # x264 calls this option 8x8dct, which is not a Python name.
    dct_8x8: int = 1
    deadzone_inter: int = 21
    deadzone_intra: int = 11
    fast_pskip: int = 0
    chroma_qp_offset: int = 0
    bframes: int = 3
    b_pyramid: str = "normal"
    b_adapt: int = 2
    direct: str = "auto"
    weightb: int = 1
    open_gop: int = 0
    weightp: int = 2
    keyint: int = 60
    min_keyint: int = 31
    scenecut: int = 0
    mbtree: int = 0
    ipratio: float = 1.0
    pbratio: float = 1.0
    aq_mode: int = 0


VIDEOSET = X264Settings()
"""The settings of VideoSet's clips."""


def encode_h264(clip: Clip, *, qp: int, settings: X264Settings = VIDEOSET) -> bytes:
    """Encode a clip with x264 at a constant quantizer.

    The same input gives the same bytes. QP 0 is lossless (VideoSet's reference); there x264
    itself disables B frames and trellis, whatever the settings say.

    Args:
      clip: at least 16x16, of a video.
      qp: 0..51 for I, P and B frames, higher is worse.
      settings: x264 options.

    Returns:
      Raw Annex-B H.264, starting with parameter sets and x264's SEI; like VideoSet's streams it
      has no color description.

    Raises:
      ValueError: `qp` is outside 0..51, or the clip is a JPEG.
      VideoError: the clip is smaller than 16x16.
    """
    if qp not in _QPS:
        raise ValueError(f"qp must be in 0..{_QPS[-1]}, got {qp}")
    if clip.color.matrix != VIDEO.matrix:
        raise ValueError(f"the clip must be encoded like a video, got {clip.color}")
    check_size("The clip", clip.width, clip.height)
    encoder = _open_encoder(clip, x264_params(settings, qp))
    encoded: list[bytes] = []
    for index in range(clip.num_frames):
        frame = clip.frame(index)
        frame.pts = index
        # VideoSet's streams carry no color description.
        frame.colorspace, frame.color_range = UNSPECIFIED_MATRIX, UNSPECIFIED_RANGE
        encoded += map(bytes, encoder.encode(frame))
    encoded += map(bytes, encoder.encode(None))
    return b"".join(encoded)


def decode(
    source: bytes | Path,
    *,
    fps: Fraction | None = None,
    max_frames: int | None = None,
    name: str | None = None,
) -> Clip:
    """Decode the video stream of a file of a supported format; a still image is one frame.

    Frames are rotated as the file asks (see `upright_planes`), cropped to even sizes and converted
    to 4:2:0 (see `to_420`), still images in Y′CbCr as `JFIF` and all others as `VIDEO`, so RGB
    images and 4:4:4 lose half of their chroma resolution. Damage that FFmpeg would conceal is an
    error here, with two exceptions: wrong bits in a JPEG that still decode, and a raw H.264 stream
    cut between two frames.

    Args:
      source: content or path of a file.
      fps: frame rate of a stream without timestamps (raw H.264), instead of the one in its
        headers; if that is missing too, FFmpeg assumes 25. Streams with timestamps keep theirs.
      max_frames: stop after this many frames, at least 1.
      name: name of the source in error messages; None uses the path.

    Returns:
      The clip; timestamps count from its first frame, exact to the container's clock.

    Raises:
      VideoError: the file is missing, not a video, truncated or damaged, its frames change size or
        are smaller than 16x16, or the clip is above `MAX_CLIP_FRAMES` or `MAX_CLIP_BYTES`.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    if name is None:
        name = name_of(source)
    with open_video(source, name) as (container, stream):
        rate, color, matrix = frame_rate(stream), VIDEO, UPRIGHT
        codec, is_still = stream.codec_context.name, is_still_image(container)
        planes: list[Planes] = []
        times: list[Fraction | None] = []
        num_bytes = 0
        for frame in islice(decode_frames(container, stream, name), max_frames):
            check_size(name, *upright_size(frame))
            if not planes:
                matrix = display_matrix(frame)
                color = upright_color(frame, matrix, codec=codec, is_still=is_still)
            planes.append(upright_planes(frame, color, matrix))
            times.append(presentation_time(frame))
            num_bytes += sum(plane.nbytes for plane in planes[-1])
            _check_length(name, len(planes), num_bytes)
    check_num_frames(name, len(planes))
    sizes = sorted({f"{y.shape[1]}x{y.shape[0]}" for y, _, _ in planes})
    if len(sizes) > 1:
        raise damaged(name, f"its frames have different sizes ({', '.join(sizes)})")
    untimed = None in times
    rate = fps if untimed and fps else rate
    first = times[0] or Fraction(0)
    timestamps = [
        index / rate if untimed or time is None else time - first
        for index, time in enumerate(times)
    ]
    return Clip.from_planes(planes, timestamps, rate, color)


def decode_yuv420p(content: bytes, *, width: int, height: int, fps: Fraction, name: str) -> Clip:
    """Return the clip in a raw 8-bit 4:2:0 file (y, u, v of each frame), taken as `VIDEO`.

    Args:
      content: the file.
      width: in pixels, even.
      height: in pixels, even.
      fps: frames per second.
      name: name of the file in error messages.

    Returns:
      The clip; its frames are views of `content`.

    Raises:
      VideoError: the file has no frame, or the last one is truncated.
    """
    frame_bytes = width * height * 3 // 2
    num_frames, rest = divmod(len(content), frame_bytes)
    _check_length(name, num_frames, len(content))
    if rest or not num_frames:
        reason = (
            f"{len(content)} bytes are not a multiple of {frame_bytes} ({width}x{height} 4:2:0)"
        )
        raise damaged(name, reason)
    frames = np.frombuffer(content, np.uint8).reshape(num_frames, height * 3 // 2, width)
    return Clip(frames, tuple(index / fps for index in range(num_frames)), fps)


def frame_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the first frame, as `decode` returns it.

    Raises:
      VideoError: the file is missing or not a video, or its first frame does not decode or is
        smaller than 16x16.
    """
    name = str(path)
    with open_video(path, name) as (container, stream):
        first = next(decode_frames(container, stream, name), None)
        if first is None:
            raise damaged(name, "it has no frames")
        check_size(name, *upright_size(first))
        width, height = upright_size(first)
        return width // 2 * 2, height // 2 * 2


def picture_bytes(stream: bytes) -> int:
    """Return the size of the encoded pictures in an Annex-B H.264 stream.

    Counted are the NAL units of slices, without start codes: a container has none. Parameter sets
    and SEI, such as x264's settings, say nothing about the cost of a quantizer.
    """
    units = stream.split(b"\0\0\1")[1:]
    return sum(len(unit.rstrip(b"\0")) for unit in units if unit and unit[0] & 31 in _SLICES)


def x264_version(stream: bytes) -> str | None:
    """Return the x264 version in a stream's SEI, "165" or "148 r2748 97eaef2"; None without one."""
    # The SEI is plain text: none of its bytes needs H.264's emulation prevention.
    match = re.search(rb"x264 - core ([ -~]+?) - ", stream)
    return match[1].decode("ascii") if match else None


def x264_params(settings: X264Settings, qp: int) -> str:
    """Return settings and QP as the value of FFmpeg's option `x264-params`."""
    # One lookahead thread and unsliced frames, so the stream does not depend on the CPU cores.
    single = {"qp": qp, "threads": 1, "lookahead-threads": 1, "sliced-threads": 0}
    return ":".join(f"{key}={value}" for key, value in (x264_options(settings) | single).items())


def x264_options(settings: X264Settings) -> dict[str, str]:
    """Return settings by the names of x264's command line."""
    values = {key.replace("_", "-"): str(value) for key, value in asdict(settings).items()}
    return values | {"8x8dct": values.pop("dct-8x8")}


def _open_encoder(clip: Clip, params: str) -> VideoCodecContext:
    encoder = CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = clip.width, clip.height, "yuv420p"
    encoder.framerate, encoder.time_base = clip.fps, 1 / clip.fps
    encoder.thread_count = 1
    encoder.options = {"x264-params": params}
    return encoder


def _check_length(name: str, num_frames: int, num_bytes: int) -> None:
    if num_frames > MAX_CLIP_FRAMES or num_bytes > MAX_CLIP_BYTES:
        raise VideoError(
            f"{name} is too long: the limits are {MAX_CLIP_FRAMES:,} frames and"
            f" {MAX_CLIP_BYTES:,} bytes decoded.",
            hint="Use shorter clips.",
        )
