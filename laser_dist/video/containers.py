"""Open video files with FFmpeg's demuxers and decoders, and turn damage into an error.

Every file that FFmpeg reads is opened here, and it is the only file that FFmpeg opens: formats that
name other files or addresses (playlists, stream descriptions, scripts) and text are not read.

By default FFmpeg conceals damage: it paints over broken slices and stops early without an error.
Measured quality and labels must not rest on such frames, so decoders run with
`err_detect=explode`, and every container is checked for truncation.
"""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import io
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from laser_dist.errors import UserError
from laser_dist.storage import limit, open_regular
from laser_dist.storage.retries import is_transient

MIN_SIZE = 16
"""Smallest width and height in pixels: one macroblock."""

MAX_PIXELS = limit("MAX_PIXELS", 1 << 26)
"""Largest frame, 8192x8192; a decoder allocates what a header states."""

MAX_FRAMES = limit("MAX_FRAMES", 1_000_000)
"""Most frames of a file, about 4.6 hours at 60 per second; their times are kept in memory."""

MAX_FILE_BYTES = limit("MAX_FILE_BYTES", 1 << 36)
"""Largest file that is read piece by piece, 64 GiB."""

PROBE_BYTES = limit("PROBE_BYTES", 5_000_000)
"""Part of a file that FFmpeg may read and decode to find its streams."""

MAX_STREAMS = limit("MAX_STREAMS", 100)
"""Most streams of a file: each has a decoder."""

VIDEO_FORMATS = (
    *("asf", "avi", "dv", "flv", "gif", "matroska", "mov", "mpeg", "mpegts", "mxf", "nut", "ogg"),
    *("av1", "h261", "h263", "h264", "hevc", "ivf", "m4v", "mjpeg", "mpegvideo", "obu", "vc1"),
    *("apng", "dirac", "dnxhd", "vvc", "yuv4mpegpipe"),
)
"""FFmpeg's names of the containers and raw streams that are read."""

IMAGE_FORMATS = (
    *("bmp", "dpx", "exr", "gif", "j2k", "jpeg", "pam", "pbm", "pgm", "png", "ppm", "qoi", "tiff"),
    "webp",
)
"""FFmpeg's names of the image formats that are read, recognized by content, not by file name."""

CODECS = (
    *("av1", "libdav1d", "h261", "h263", "h264", "hevc", "vvc", "vp6", "vp6f", "vp8", "vp9"),
    *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "theora", "dirac"),
    *("flv", "wmv1", "wmv2", "wmv3", "vc1", "svq1", "svq3", "cinepak", "qtrle", "dvvideo"),
    *("cfhd", "dnxhd", "prores", "ffv1", "ffvhuff", "huffyuv", "utvideo", "magicyuv"),
    *("rawvideo", "v210", "v410", "mjpeg", "jpeg2000", "bmp", "dpx", "exr", "gif", "apng", "png"),
    *("pam", "pbm", "pgm", "ppm", "qoi", "tiff", "webp"),
)
"""FFmpeg's names of the decoders that are used. Sound is not decoded."""

_DECODER_OPTIONS = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
_CONTAINER_OPTIONS = {
    "format_whitelist": ",".join((*VIDEO_FORMATS, *(f"{name}_pipe" for name in IMAGE_FORMATS))),
    "codec_whitelist": ",".join(CODECS),
    "protocol_whitelist": "",  # FFmpeg itself opens nothing: it reads through a file object
    "max_pixels": str(MAX_PIXELS),
    "max_streams": str(MAX_STREAMS),
    "probesize": str(PROBE_BYTES),
}
# Containers with an index of file positions and with exact seeking.
_INDEXED = ("mov,", "matroska,")
_DEFAULT_PIXELS = 5_000_000  # of `ffmpeg`: what the mark of a default stream counts
_ROUNDING_S = Fraction(1, 1000)  # Matroska's unit of time
_FALLBACK_FPS = Fraction(25)  # FFmpeg's own default for a raw stream without a rate


class VideoError(UserError):
    """A clip that cannot be used: missing, not a video, truncated, damaged or too small."""


@dataclass(frozen=True)
class PacketTimes:
    """Presentation times of a stream, read without decoding.

    Attributes:
      num_frames: number of encoded pictures to be shown.
      times: all presentation times in seconds, ascending; those of a stream without times follow
        from its frame rate.
      key_times: those of the pictures at which decoding can start, ascending; also of pictures that
        an edit list hides, but that others need. Empty if the container cannot seek to them
        exactly.
    """

    num_frames: int
    times: tuple[Fraction, ...]
    key_times: tuple[Fraction, ...]

    @property
    def length(self) -> Fraction:
        """Seconds from the first picture to the end of the last, shown for as long as the mean."""
        first, last = self.times[0], self.times[-1]
        return last - first + ((last - first) / max(1, len(self.times) - 1) or _ROUNDING_S)

    def shown_at_centers(self, count: int, start: Fraction, end: Fraction) -> list[int]:
        """Return the pictures that are shown at the centers of equal intervals of time.

        At a variable frame rate these are other pictures than those at equal distances.

        Args:
          count: number of intervals, at least 1.
          start: start of the first interval, in seconds from the first picture.
          end: end of the last interval.

        Returns:
          Ascending positions in `times` of pictures that start in [start, end): all, if there are
          no more than `count`; else a picture that is shown at several centers is there once.
        """
        start, end = self.times[0] + start, self.times[0] + end
        first, after = bisect_left(self.times, start), bisect_left(self.times, end)
        if after - first <= count:
            return list(range(first, after))
        step = (end - start) / (2 * count)
        centers = [start + (2 * index + 1) * step for index in range(count)]
        # Containers round times: a picture may start a moment after the center that it starts at.
        found = {bisect_right(self.times, center + _ROUNDING_S) - 1 for center in centers}
        return sorted(max(first, index) for index in found)


@contextmanager
def open_video(source: bytes | Path, name: str) -> Generator[tuple[InputContainer, VideoStream]]:
    """Open the video stream of a file that `ffmpeg` picks; convert FFmpeg errors inside the block.

    Args:
      source: content or path of the file.
      name: name of the source in error messages.

    Raises:
      VideoError: the file is missing, not a regular file, empty, too large, or not a video of a
        supported format; its index points past its end; or FFmpeg fails while the block reads.
    """
    try:
        with _open_file(source) as file:
            if not file.read(1):
                raise VideoError(f"{name} is empty.", hint="Replace it with a complete copy.")
            file.seek(0)
            with _open_container(file, name) as container:
                stream = _video_stream(container, name)
                _check_index(container, stream, name)
                yield container, stream
    # For a few damaged headers PyAV raises Python errors instead of FFmpeg errors.
    except (FFmpegError, OSError, ValueError) as error:
        if (
            isinstance(error, OSError)
            and not isinstance(error, FFmpegError)
            and is_transient(error)
        ):
            raise  # the disk failed
        text = getattr(error, "strerror", None) or str(error)
        raise damaged(name, f'FFmpeg reports "{text}"') from error


def h264_stream(content: bytes, name: str) -> bytes | None:
    """Return the H.264 of a file in a container as an Annex-B stream; None for another codec.

    Args:
      content: the file.
      name: name of the file in error messages.

    Raises:
      VideoError: the content is not a video.
    """
    with open_video(content, name) as (container, stream):
        if stream.codec_context.name != "h264":
            return None
        to_annexb = BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        return b"".join(bytes(part) for packet in packets for part in to_annexb.filter(packet))


def name_of(source: bytes | Path) -> str:
    """Return the name of a file, given as its path or content, for messages."""
    return f"{len(source)} bytes in memory" if isinstance(source, bytes) else str(source)


def damaged(name: str, reason: str) -> VideoError:
    """Return the error for content that does not decode as it should."""
    return VideoError(
        f"Cannot decode {name}: {reason}.",
        hint="Replace it with a complete copy, or encode it again.",
    )


def check_size(name: str, width: int, height: int) -> None:
    """Raise VideoError unless both sizes, before any cropping, are at least `MIN_SIZE`."""
    if min(width, height) < MIN_SIZE:
        raise VideoError(
            f"{name} has {width}x{height} pixels; the minimum is {MIN_SIZE}x{MIN_SIZE}.",
            hint="Use a larger video or image.",
        )


def check_num_frames(name: str, num_frames: int, expected: int | None = None) -> None:
    """Raise VideoError unless the number of frames is as expected (None = at least one)."""
    if expected is not None and num_frames != expected:
        raise damaged(name, f"it has {num_frames} of {expected} frames")
    if num_frames == 0:
        raise damaged(name, "it has no frames")


def frame_rate(stream: VideoStream) -> Fraction:
    """Return the nominal frames per second: as stated, else as FFmpeg guesses, else 25."""
    rate = stream.guessed_rate or stream.average_rate
    return rate if rate and rate > 0 else _FALLBACK_FPS


def presentation_time(frame: av.VideoFrame) -> Fraction | None:
    """Return the presentation time of a frame in seconds; None if the stream has no clock."""
    if frame.pts is None or not frame.time_base:
        return None
    return frame.pts * frame.time_base


def decode_frames(
    container: InputContainer, stream: VideoStream, name: str
) -> Iterator[av.VideoFrame]:
    """Yield all frames from the current position on, ordered by time.

    Raises:
      VideoError: a packet is truncated, or the file ends before the stated end.
      FFmpegError: the decoder detects damage.
    """
    for packet in _packets(container, stream, name):
        for frame in stream.decode(packet):
            # Concealed, or predicted from a missing picture: the decoder does not raise for all
            # of these.
            if frame.is_corrupt:
                raise damaged(name, "a frame is damaged")
            yield frame


def decode_frames_at(
    container: InputContainer, stream: VideoStream, times: Sequence[Fraction], index: PacketTimes
) -> Iterator[av.VideoFrame]:
    """Yield the frames at `times` (ascending), skipping groups of pictures without one."""
    position: Fraction | None = None
    decoded: Iterator[av.VideoFrame] = iter(())
    for time in times:
        key = index.key_times[max(0, bisect_right(index.key_times, time) - 1)]
        if position is None or key > position:
            container.seek(round(key / _time_base(stream)), stream=stream)
            decoded = _decode_from_key(container, stream, key)
        for frame in decoded:
            position = presentation_time(frame)
            if position is not None and position >= time:
                yield frame
                break


def scan_packets(container: InputContainer, stream: VideoStream, name: str) -> PacketTimes:
    """Read all packets without decoding them.

    Raises:
      VideoError: a packet is truncated, or the file ends before the stated end.
    """
    shown: list[Fraction | None] = []
    keys: list[Fraction] = []
    for packet in _packets(container, stream, name):
        if not packet.size:
            continue
        time = None if packet.pts is None else packet.pts * _time_base(stream)
        if time is not None and packet.is_keyframe:
            keys.append(time)
        if packet.is_discard:
            continue
        shown.append(time)
    times = sorted(time for time in shown if time is not None)
    if len(times) < len(shown):
        rate = frame_rate(stream)
        return PacketTimes(len(shown), tuple(index / rate for index in range(len(shown))), ())
    return PacketTimes(
        len(shown), tuple(times), tuple(sorted(keys)) if _is_indexed(container) else ()
    )


def _open_file(source: bytes | Path) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_regular(
        source, max_bytes=MAX_FILE_BYTES, hint="Name a video or image file.", error=VideoError
    )


def _open_container(file: BinaryIO, name: str) -> InputContainer:
    """Open a file object, which has no name: FFmpeg would choose formats and other files by it."""
    try:
        return av.open(file, "r", metadata_errors="ignore", options=_CONTAINER_OPTIONS)
    except (ArgumentError, InvalidDataError) as error:
        problem = "it is damaged, or not a video or image of a supported format"
        raise damaged(name, problem) from error


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the stream that the `ffmpeg` program picks: by default marks first, then by pixels.

    So the largest of several versions is read, and the colors of an AVIF file, not its mask.
    """
    found: list[VideoStream] = []
    for stream in container.streams.video:
        # Skip the cover picture of a song. A stream without a decoder has no context (whatever
        # PyAV's stubs say).
        context = cast(VideoCodecContext | None, stream.codec_context)
        if stream.disposition & Disposition.attached_pic or context is None:
            continue
        if context.name in CODECS and context.width and context.pix_fmt:
            found.append(stream)
    if found:
        best = max(found, key=_rank)  # the first one of several that are equal
        best.codec_context.options = dict(_DECODER_OPTIONS)
        best.codec_context.thread_count = 1
        return best
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    raise damaged(name, f"it has no video stream of a supported codec (streams: {kinds})")


def _rank(stream: VideoStream) -> int:
    is_default = bool(stream.disposition & Disposition.default)
    return stream.codec_context.width * stream.codec_context.height + _DEFAULT_PIXELS * is_default


def _packets(
    container: InputContainer, stream: VideoStream, name: str
) -> "Iterator[Packet[VideoStream]]":
    """Yield all packets, the last one empty (it flushes the decoder); raise if truncated."""
    end, count = Fraction(0), 0
    # FFmpeg paints over the last rows of a JPEG that lacks less than a few dozen bytes. Pictures
    # in a video are not checked: some cameras omit the end marker there.
    is_jpeg = is_still_image(container) and stream.codec_context.name == "mjpeg"
    for packet in container.demux(stream):
        if count > MAX_FRAMES:
            raise VideoError(f"{name} has more than {MAX_FRAMES:,} frames.", hint="Cut it.")
        if packet.is_corrupt:
            raise damaged(name, f"packet {count} is truncated or damaged")
        if not packet.size and packet.dts is not None:
            count += 1  # a repeated picture in AVI; a decoder would take it for the end
            continue
        if packet.size:
            count += 1
            if is_jpeg and not _has_jpeg_end(bytes(packet)):
                raise damaged(name, "it is truncated (no JPEG end marker)")
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * _time_base(stream))
        yield packet
    _check_end(container, stream, name, end, count)


def _decode_from_key(
    container: InputContainer, stream: VideoStream, key: Fraction
) -> Iterator[av.VideoFrame]:
    for packet in container.demux(stream):
        try:
            yield from stream.decode(packet)
        except FFmpegError:
            # Pictures shown before the key picture refer to a group that was skipped.
            if packet.pts is None or packet.pts * _time_base(stream) >= key:
                raise


def _check_index(container: InputContainer, stream: VideoStream, name: str) -> None:
    """Raise if the index points past the end: the decoder accepts a cut between two packets."""
    if not _is_indexed(container) or container.size <= 0:
        return
    last = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if last > container.size:
        raise damaged(name, f"it is truncated ({container.size} of {last} bytes)")


def _has_jpeg_end(data: bytes) -> bool:
    """Return whether the end marker follows the start of the first scan.

    A thumbnail before the scan has its own. Encoded pixels cannot contain the marker, and data
    after it does no harm.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return data.find(b"\xff\xd9", position) >= 0


def _check_end(
    container: InputContainer, stream: VideoStream, name: str, end: Fraction, count: int
) -> None:
    if container.format.name == "avi" and count < stream.frames:
        raise damaged(name, f"it is truncated ({count} of {stream.frames} frames)")
    stated = _matroska_duration(stream)
    # Two frames of tolerance: muxers disagree on whether the last frame's duration counts.
    if stated is not None and end + 2 / frame_rate(stream) < stated:
        raise damaged(name, f"it is truncated ({float(end):.3f} of {float(stated):.3f} s)")


def _matroska_duration(stream: VideoStream) -> Fraction | None:
    """Return the duration in the DURATION tag ("00:00:05.005000000"); None without one."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    except ValueError:
        return None


def is_still_image(container: InputContainer) -> bool:
    """Return whether a file is a still image, such as a JPEG."""
    return container.format.name.endswith("_pipe")


def _is_indexed(container: InputContainer) -> bool:
    return container.format.name.startswith(_INDEXED)


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, av.time_base)
