"""H.264 at VideoSet's settings, and decoding of anything FFmpeg reads; all in memory.

Nothing is written to disk and nothing is started: encoder and decoder run in this process,
through the FFmpeg libraries in PyAV's wheel, on one thread unless told otherwise.
"""

# PyAV's stubs leave the stream type of the packets that `encode` returns open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext

from laser_dist.video.containers import (
    VideoError,
    check_count,
    check_size,
    damaged,
    frame_rate,
    frames_at,
    frames_of,
    is_still_image,
    name_of,
    opened,
    scan,
    time_of,
)
from laser_dist.video.frames import Clip, Planes, UInt8Array, upright_planes, upright_size

MAX_QP = 51
"""Coarsest quantizer of 8-bit H.264."""

# AVColorSpace and AVColorRange: nothing stated.
_UNSTATED_MATRIX, _UNSTATED_RANGE = 2, 0


@dataclass(frozen=True, kw_only=True)
class X264Settings:
    """x264's options that shape the coded pictures; the defaults are VideoSet's.

    Source: Wang et al. 2017, arXiv 1701.01500, and the SEI of VideoSet's own streams (x264 core
    148). Names and values are those of x264's command line, with `_` for `-`.
    """

    cabac: int = 1
    ref: int = 3
    deblock: str = "0,0"
    # The SEI's analyze=0x3:0x111. The library's default would add i8x8 in P frames (0x113).
    partitions: str = "p8x8,b8x8,i4x4"
    me: str = "umh"
    subme: int = 9
    psy: int = 0
    mixed_refs: int = 1
    merange: int = 128
    chroma_me: int = 1
    trellis: int = 2
    # x264 names this option 8x8dct, which is no Python name.
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
"""The settings VideoSet's clips were coded with."""


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What a file says about its video.

    Attributes:
      width: columns as `decode` gives them: turned as the file asks, cropped to even.
      height: rows, alike.
      fps: nominal frames per second.
      num_frames: 1 for a still image; None where the container does not say.
      duration_s: seconds, None where the container does not say.
      codec: FFmpeg's codec name, "h264".
      pixel_format: FFmpeg's pixel format, "yuv420p".
    """

    width: int
    height: int
    fps: Fraction
    num_frames: int | None
    duration_s: float | None
    codec: str
    pixel_format: str


@dataclass(frozen=True, eq=False)
class SampledFrame:
    """A frame picked from a clip.

    Attributes:
      timestamp_s: seconds from the clip's first frame.
      rgb: [height, width, 3] uint8, full range.
    """

    timestamp_s: float
    rgb: UInt8Array


def encode_h264(
    clip: Clip, *, qp: int, settings: X264Settings = VIDEOSET, threads: int = 1
) -> bytes:
    """Code a clip with x264 at a constant quantizer.

    The same input gives the same bytes. QP 0 is lossless (VideoSet's reference); there x264
    itself drops B frames and trellis, whatever the settings say.

    Args:
      clip: at least 16x16.
      qp: 0..51 for I, P and B frames alike, higher is worse.
      settings: x264's options.
      threads: x264's frame threads; another number than 1 may give another stream, as frames
        coded at once see less of each other.

    Returns:
      Raw Annex-B H.264, parameter sets and x264's SEI first; no color description, as VideoSet.

    Raises:
      ValueError: `qp` outside 0..51 or `threads` below 1.
      VideoError: the clip is smaller than 16x16.
    """
    if not 0 <= qp <= MAX_QP:
        raise ValueError(f"qp must be in 0..{MAX_QP}, got {qp}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    check_size("encode a clip", clip.width, clip.height)
    encoder = _open_encoder(clip, _x264_params(settings, qp, threads), threads)
    coded: list[bytes] = []
    for index in range(clip.num_frames):
        frame = clip.frame(index)
        frame.pts = index
        # Left unstated: VideoSet's streams carry no color description.
        frame.colorspace, frame.color_range = _UNSTATED_MATRIX, _UNSTATED_RANGE
        coded += map(bytes, encoder.encode(frame))
    coded += map(bytes, encoder.encode(None))
    return b"".join(coded)


def decode(
    source: bytes | Path,
    *,
    fps: Fraction | None = None,
    max_frames: int | None = None,
    expected_frames: int | None = None,
) -> Clip:
    """Decode the first video stream of anything FFmpeg reads; a still image is one frame.

    Frames are turned as the file asks (see `upright_planes`), cropped to even sizes and converted
    to BT.709 limited 4:2:0 (see `to_bt709_420`), so that the chroma of RGB images and of 4:4:4 is
    halved. Damage that FFmpeg would conceal is an error here, but for wrong bits in a JPEG that
    decode to something. A raw H.264 stream cut between two frames looks whole: only
    `expected_frames` finds that.

    Args:
      source: a file's content or its path.
      fps: frame rate of a stream without timestamps (raw H.264), in place of the one in its
        headers; where that is missing as well, FFmpeg assumes 25. Streams with timestamps keep
        theirs.
      max_frames: stop after this many frames, at least 1.
      expected_frames: exact number of frames that must come.

    Returns:
      The clip; timestamps count from its first frame, exact to the container's clock.

    Raises:
      VideoError: no such file, not a video, truncated, damaged, another number of frames than
        expected, frames of changing size or smaller than 16x16.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    name = name_of(source)
    with opened(source) as (container, stream):
        rate = frame_rate(stream)
        planes: list[Planes] = []
        times: list[Fraction | None] = []
        for frame in islice(frames_of(container, stream, name), max_frames):
            planes.append(_checked_planes(frame, name))
            times.append(time_of(frame))
    check_count(name, len(planes), expected_frames)
    sizes = {y.shape for y, _, _ in planes}
    if len(sizes) > 1:
        raise damaged(name, "frames of one size", f"sizes {sorted(sizes)} (rows, columns)")
    untimed = None in times
    rate = fps if untimed and fps else rate
    first = times[0] or Fraction(0)
    timestamps = [
        index / rate if untimed or time is None else time - first
        for index, time in enumerate(times)
    ]
    return Clip.from_planes(planes, timestamps, rate)


def probe(path: Path) -> ClipInfo:
    """What a file holds, from its headers and its first frame.

    Raises:
      VideoError: no such file, not a video, no first frame that decodes, or one smaller than
        16x16.
    """
    name = name_of(path)
    with opened(path) as (container, stream):
        first = next(frames_of(container, stream, name), None)
        check_count(name, int(first is not None), 1)
        assert first is not None
        rows, columns = _checked_planes(first, name)[0].shape
        duration_s = None
        if stream.duration is not None and stream.time_base is not None:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration_s = container.duration / av.time_base
        return ClipInfo(
            width=columns,
            height=rows,
            fps=frame_rate(stream),
            num_frames=1 if is_still_image(container) else stream.frames or None,
            duration_s=duration_s,
            codec=stream.codec_context.name,
            pixel_format=stream.pix_fmt or "unknown",
        )


def sample_frames(path: Path, *, num_frames: int, width: int, height: int) -> list[SampledFrame]:
    """Pick frames evenly over a whole clip, in memory that does not grow with its length.

    Of T frames, number `(2 i + 1) T / (2 N)` rounded down is the i-th pick: the centers of N
    equal intervals. The file is read twice, first without decoding; where it has timestamps,
    whole groups of pictures without a pick are skipped.

    Args:
      path: a video or an image (which gives one frame).
      num_frames: N, at least 1; a clip with fewer frames gives all of them, once each.
      width: columns of each pick, resized as by `Clip.rgb`.
      height: rows of each pick.

    Returns:
      min(N, T) frames in order of time.

    Raises:
      VideoError: as `decode`.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    name = str(path)
    with opened(path) as (container, stream):
        where = scan(container, stream, name)
    total = where.num_frames
    check_count(name, total, None)
    count = min(num_frames, total)
    picks = [(2 * index + 1) * total // (2 * count) for index in range(count)]
    with opened(path) as (container, stream):
        if where.times:
            wanted = [where.times[pick] for pick in picks]
            frames = frames_at(container, stream, wanted, where)
        else:
            frames = _frames_numbered(frames_of(container, stream, name), picks)
        samples: list[SampledFrame] = []
        for pick, frame in zip(picks, frames, strict=False):
            since = pick / frame_rate(stream)
            time = time_of(frame)
            if time is not None and where.start is not None:
                since = time - where.start
            samples.append(SampledFrame(float(since), _one_frame_rgb(frame, width, height, name)))
    check_count(name, len(samples), count)
    return samples


def x264_settings_of(stream: bytes) -> dict[str, str]:
    """The settings x264 wrote into a stream's SEI, by x264's own names ("me_range": "128").

    Args:
      stream: H.264 content, raw or in a container.

    Raises:
      VideoError: no such SEI.
    """
    options = _sei_field(stream, rb"options: ([ -~]+)")
    return dict(pair.split("=", 1) for pair in options.split() if "=" in pair)


def x264_version_of(stream: bytes) -> str:
    """The x264 that coded a stream, "165" or "148 r2748 97eaef2".

    Raises:
      VideoError: no such SEI.
    """
    return _sei_field(stream, rb"x264 - core ([ -~]+?) - ")


def _sei_field(stream: bytes, pattern: bytes) -> str:
    # The SEI is plain text: no byte of it needs H.264's emulation prevention.
    match = re.search(pattern, stream)
    if match is None:
        got = f"none in {len(stream)} bytes"
        raise VideoError(
            "read x264's settings", "an SEI written by x264", got, "Encode the clip with x264."
        )
    return match[1].decode("ascii")


def _x264_params(settings: X264Settings, qp: int, threads: int) -> str:
    values = asdict(settings)
    # One lookahead thread and unsliced frames, so that the stream does not depend on the cores.
    values |= {"qp": qp, "threads": threads, "lookahead_threads": 1, "sliced_threads": 0}
    values["8x8dct"] = values.pop("dct_8x8")
    return ":".join(f"{key.replace('_', '-')}={value}" for key, value in values.items())


def _open_encoder(clip: Clip, params: str, threads: int) -> VideoCodecContext:
    encoder = CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = clip.width, clip.height, "yuv420p"
    encoder.framerate, encoder.time_base = clip.fps, 1 / clip.fps
    encoder.thread_count = threads
    encoder.options = {"x264-params": params}
    return encoder


def _frames_numbered(
    frames: Iterator[av.VideoFrame], numbers: list[int]
) -> Iterator[av.VideoFrame]:
    wanted = set(numbers)
    return (frame for index, frame in enumerate(frames) if index in wanted)


def _one_frame_rgb(frame: av.VideoFrame, width: int, height: int, name: str) -> UInt8Array:
    clip = Clip.from_planes([_checked_planes(frame, name)], [Fraction(0)], Fraction(1))
    return clip.rgb(0, width=width, height=height)


def _checked_planes(frame: av.VideoFrame, name: str) -> Planes:
    """`upright_planes` of a frame that is large enough."""
    check_size(f"decode {name}", *upright_size(frame))
    return upright_planes(frame)
