"""Reading of video files through FFmpeg's demuxers and decoders, with damage made an error.

FFmpeg's own habit is to conceal: it paints over broken slices and ends early without a word.
Measured quality and labels must not rest on such frames, so decoders run with
`err_detect=explode` and every container is asked whether its end is the end.
"""

# PyAV's stubs leave the stream type of the packets that `decode` takes open.
# pyright: reportUnknownMemberType=false

import io
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from laser_dist.errors import UserError

MIN_SIZE = 16
"""Smallest width and height in pixels: one macroblock."""

# 8192 x 8192: a damaged header may claim any size, and the decoder would reserve it.
_MAX_PIXELS = str(1 << 26)
_DECODER_OPTIONS = {"err_detect": "explode", "max_pixels": _MAX_PIXELS}
# Containers with an index that gives positions in the file and whose seeking is exact.
_INDEXED = ("mov,", "matroska,")
_FALLBACK_FPS = Fraction(25)  # FFmpeg's own guess for a raw stream that states no rate.


class VideoError(UserError):
    """A clip that cannot be used: missing, not a video, truncated, damaged or too small."""


@dataclass(frozen=True)
class PacketTimes:
    """Where a stream's frames lie, read without decoding.

    Attributes:
      num_frames: number of coded pictures that are to be shown.
      start: the earliest presentation time in seconds; None where some have none.
      times: all presentation times, ascending; empty where one cannot seek to them exactly.
      key_times: those of the pictures at which decoding can start, ascending.
    """

    num_frames: int
    start: Fraction | None
    times: tuple[Fraction, ...]
    key_times: tuple[Fraction, ...]


@contextmanager
def opened(source: bytes | Path) -> Generator[tuple[InputContainer, VideoStream]]:
    """Open a file's first real video stream; FFmpeg's errors inside the block become ours.

    Raises:
      VideoError: no such file, not a video, an index that points past the file's end, or any
        error of FFmpeg while the block reads.
    """
    name = name_of(source)
    if isinstance(source, Path) and not source.is_file():
        got = "a directory" if source.is_dir() else "no such file"
        raise VideoError(f"read {name}", "a video or image file", got, "Check the path.")
    try:
        # Always handed over as a file object: FFmpeg would take a path such as "a:b%02d.png" for
        # a protocol or a pattern.
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            with av.open(
                file, "r", metadata_errors="ignore", options={"max_pixels": _MAX_PIXELS}
            ) as container:
                stream = _video_stream(container, name)
                _refuse_cut_index(container, stream, name)
                yield container, stream
    # PyAV answers a few damaged headers with Python's own errors instead of FFmpeg's.
    except (FFmpegError, OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise damaged(name, "a video or image that FFmpeg can decode", text) from error


def coded_size(content: bytes) -> tuple[str, int]:
    """The codec of a file's pictures, and their bytes alone, without what the container adds.

    Returns:
      FFmpeg's name of the codec, such as "h264"; bytes.

    Raises:
      VideoError: not a video.
    """
    with opened(content) as (container, stream):
        codec = stream.codec_context.name
        return codec, sum(packet.size for packet in container.demux(stream))


def name_of(source: bytes | Path) -> str:
    """How messages call a source."""
    return f"{len(source)} bytes in memory" if isinstance(source, bytes) else str(source)


def damaged(name: str, expected: str, got: str) -> VideoError:
    """The error for content that does not decode as it says it should."""
    return VideoError(
        f"decode {name}", expected, got, "Replace the file by a whole copy, or encode it again."
    )


def check_size(what: str, width: int, height: int) -> None:
    """Raise VideoError unless both sizes, taken before any cropping, are at least `MIN_SIZE`."""
    if min(width, height) < MIN_SIZE:
        raise VideoError(
            what,
            f"at least {MIN_SIZE}x{MIN_SIZE} pixels",
            f"{width}x{height}",
            "Use a larger one.",
        )


def check_count(name: str, count: int, expected: int | None) -> None:
    """Raise VideoError unless `count` frames came as expected (None = at least one)."""
    if count == 0 or (expected is not None and count != expected):
        wanted = "at least one frame" if expected is None else f"{expected} frames"
        raise damaged(name, wanted, f"{count}")


def frame_rate(stream: VideoStream) -> Fraction:
    """Nominal frames per second: what the stream states, else FFmpeg's guess, else 25."""
    rate = stream.guessed_rate or stream.average_rate
    return rate if rate and rate > 0 else _FALLBACK_FPS


def is_still_image(container: InputContainer) -> bool:
    """Whether the file is one picture, such as a PNG or a JPEG."""
    return container.format.name.endswith("_pipe") or container.format.name == "image2"


def time_of(frame: av.VideoFrame) -> Fraction | None:
    """A frame's presentation time in seconds; None where the stream has no clock."""
    if frame.pts is None or not frame.time_base:
        return None
    return frame.pts * frame.time_base


def frames_of(container: InputContainer, stream: VideoStream, name: str) -> Iterator[av.VideoFrame]:
    """All frames from the current position on, in order of time.

    Raises:
      VideoError: a cut packet, or an end before the one that the container states.
      FFmpegError: damage that the decoder finds.
    """
    for packet in _packets(container, stream, name):
        for frame in stream.decode(packet):
            # Painted over, or leaning on a picture that is not there: not all of these are errors
            # to the decoder.
            if frame.is_corrupt:
                raise damaged(name, "whole frames", "one that the decoder has mended")
            yield frame


def frames_at(
    container: InputContainer, stream: VideoStream, wanted: Sequence[Fraction], where: PacketTimes
) -> Iterator[av.VideoFrame]:
    """The frames at the `wanted` times (ascending), groups of pictures without one skipped."""
    position: Fraction | None = None
    decoded: Iterator[av.VideoFrame] = iter(())
    for time in wanted:
        key = where.key_times[max(0, bisect_right(where.key_times, time) - 1)]
        if position is None or key > position:
            container.seek(round(key / _time_base(stream)), stream=stream)
            decoded = _frames_since(container, stream, key)
        for frame in decoded:
            position = time_of(frame)
            if position is not None and position >= time:
                yield frame
                break


def scan(container: InputContainer, stream: VideoStream, name: str) -> PacketTimes:
    """Read all packets without decoding them.

    Raises:
      VideoError: a cut packet, or an end before the one that the container states.
    """
    shown = [
        (packet.pts, packet.is_keyframe)
        for packet in _packets(container, stream, name)
        if packet.size and not packet.is_discard
    ]
    times = sorted((pts * _time_base(stream), is_key) for pts, is_key in shown if pts is not None)
    start = times[0][0] if times and len(times) == len(shown) else None
    keys = tuple(time for time, is_key in times if is_key)
    if start is None or not keys or not _is_indexed(container):
        return PacketTimes(len(shown), start, (), ())
    return PacketTimes(len(shown), start, tuple(time for time, _ in times), keys)


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        # A song's cover picture is not its video, and without a decoder there is no context
        # (whatever PyAV's stubs say).
        context = cast(VideoCodecContext | None, stream.codec_context)
        if stream.disposition & Disposition.attached_pic or context is None:
            continue
        if context.width and context.pix_fmt:
            context.options = dict(_DECODER_OPTIONS)
            context.thread_count = 1
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none at all"
    raise damaged(name, "a video stream that FFmpeg can decode", f"streams of type: {kinds}")


def _packets(
    container: InputContainer, stream: VideoStream, name: str
) -> "Iterator[Packet[VideoStream]]":
    """All packets, the last one empty (it flushes the decoder); raises where the file is cut."""
    end, count = Fraction(0), 0
    # FFmpeg paints over the last rows of one that lacks less than a few dozen bytes. Of pictures
    # in a video it is not asked: some cameras leave the mark out there.
    is_jpeg = is_still_image(container) and stream.codec_context.name == "mjpeg"
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise damaged(name, "whole packets", f"packet {count} cut or damaged")
        if not packet.size and packet.dts is not None:
            count += 1  # AVI marks a repeated picture so; a decoder would take it for the end.
            continue
        if packet.size:
            count += 1
            if is_jpeg and not _has_jpegs_end(bytes(packet)):
                raise damaged(name, "a JPEG's end mark", "none (truncated)")
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * _time_base(stream))
        yield packet
    _refuse_early_end(container, stream, name, end, count)


def _frames_since(
    container: InputContainer, stream: VideoStream, key: Fraction
) -> Iterator[av.VideoFrame]:
    for packet in container.demux(stream):
        try:
            yield from stream.decode(packet)
        except FFmpegError:
            # Pictures shown before the key picture lean on a group that was skipped.
            if packet.pts is None or packet.pts * _time_base(stream) >= key:
                raise


def _refuse_cut_index(container: InputContainer, stream: VideoStream, name: str) -> None:
    """MP4 and Matroska may be cut between two packets, where the decoder sees nothing wrong."""
    if not _is_indexed(container) or container.size <= 0:
        return
    last = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if last > container.size:
        raise damaged(name, f"{last} bytes, as its index says", f"{container.size} (truncated)")


def _has_jpegs_end(data: bytes) -> bool:
    """Whether the mark stands after the first scan's beginning: a thumbnail before it has its own.

    Coded pixels cannot hold the mark, what lies behind it does no harm.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return data.find(b"\xff\xd9", position) >= 0


def _refuse_early_end(
    container: InputContainer, stream: VideoStream, name: str, end: Fraction, count: int
) -> None:
    if container.format.name == "avi" and count < stream.frames:
        raise damaged(name, f"{stream.frames} frames, as its header says", f"{count} (truncated)")
    stated = _matroska_duration(stream)
    # Two frames of slack: writers disagree on whether the last frame's duration counts.
    if stated is not None and end + 2 / frame_rate(stream) < stated:
        got = f"{float(end):.3f} s (truncated)"
        raise damaged(name, f"{float(stated):.3f} s, as its header says", got)


def _matroska_duration(stream: VideoStream) -> Fraction | None:
    """The stream's own length from its DURATION tag ("00:00:05.005000000"), None without one."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    except ValueError:
        return None


def _is_indexed(container: InputContainer) -> bool:
    return container.format.name.startswith(_INDEXED)


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, av.time_base)
