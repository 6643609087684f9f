"""Open video files with FFmpeg's demuxers and decoders, and turn damage into an error.

Every file that FFmpeg reads is opened here, and it is the only file that FFmpeg opens: formats that
name other files or addresses (playlists, stream descriptions, scripts) and text are not read.

By default FFmpeg conceals damage: it paints over broken slices and stops early without an error.
Measured quality and labels must not rest on such frames, so decoders run with
`err_detect=explode`, and every container is checked for truncation. A prediction may rest on them:
where a `Damage` is given, FFmpeg conceals, and the damage is counted there instead.
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
from laser_dist.video.animations import video_of
from laser_dist.video.signatures import codec_tags, is_photograph, problem_of

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


_OTHER_FILE = "Name a video or image that FFmpeg can decode, or convert it to one."


class VideoError(UserError):
    """A clip that cannot be used: missing, not a video, truncated, damaged or too small."""


@dataclass
class Damage:
    """Damage that is counted while a file is read; without one, the first damage is an error.

    Attributes:
      num_concealed: frames that FFmpeg has painted over or predicted from a missing picture.
      num_lost: encoded pictures that gave no frame.
      is_truncated: whether the file ends early.
    """

    num_concealed: int = 0
    num_lost: int = 0
    is_truncated: bool = False


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
      first: the first picture that decodes, as decoded; None if none does.
    """

    num_frames: int
    times: tuple[Fraction, ...]
    key_times: tuple[Fraction, ...]
    first: av.VideoFrame | None = None

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
def open_video(
    source: bytes | Path, name: str, damage: Damage | None = None
) -> Generator[tuple[InputContainer, VideoStream]]:
    """Open the video stream of a file that `ffmpeg` picks; convert FFmpeg errors inside the block.

    Args:
      source: content or path of the file.
      name: name of the source in error messages.
      damage: counts damage that FFmpeg conceals; None makes the decoder stop at it.

    Raises:
      VideoError: the file is missing, not a regular file, empty, too large, or not a video of a
        supported format; its index points past its end; or FFmpeg fails while the block reads.
    """
    try:
        with _open_file(source) as file:
            if not file.read(1):
                raise VideoError(f"{name} is empty.", hint="Replace it with a complete copy.")
            with _open_container(video_of(file) or file, name) as container:
                stream = _video_stream(container, file, name)
                # One thread: the order of errors, and so the frames, do not depend on the machine.
                stream.codec_context.thread_count = 1
                strict = {} if damage else {"err_detect": "explode"}
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), **strict}
                _check_index(container, stream, name, damage)
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
    container: InputContainer, stream: VideoStream, name: str, damage: Damage | None = None
) -> Iterator[av.VideoFrame]:
    """Yield all frames from the current position on, ordered by time.

    Raises:
      VideoError: without `damage`: a packet is truncated, a frame is damaged, or the file ends
        before the stated end.
      FFmpegError: without `damage`: the decoder detects it.
    """
    for packet in _packets(container, stream, name, damage):
        for frame in _decoded(stream, packet, damage):
            # Concealed, or predicted from a missing picture: the decoder does not raise for all
            # of these.
            if frame.is_corrupt and damage is None:
                raise damaged(name, "a frame is damaged")
            yield frame


def decode_frames_at(
    container: InputContainer,
    stream: VideoStream,
    times: Sequence[Fraction],
    index: PacketTimes,
    damage: Damage | None = None,
) -> Iterator[av.VideoFrame]:
    """Yield the frames at `times` (ascending), skipping groups of pictures without one.

    A frame that does not decode is replaced by the next one, or left out if that is there already.
    """
    position: Fraction | None = None
    decoded: Iterator[av.VideoFrame] = iter(())
    for time in times:
        if position is not None and position >= time:
            continue
        number = max(0, bisect_right(index.key_times, time) - 1)
        if position is None or index.key_times[number] > position:
            decoded = _decode_to(container, stream, time, index.key_times[: number + 1], damage)
        for frame in decoded:
            position = presentation_time(frame)
            if position is not None and position >= time:
                yield frame
                break


def scan_packets(
    container: InputContainer, stream: VideoStream, name: str, damage: Damage | None = None
) -> PacketTimes:
    """Read all packets, and decode no more than the first picture.

    Raises:
      VideoError: without `damage`: a packet is truncated, or the file ends before the stated end.
    """
    shown: list[Fraction | None] = []
    keys: list[Fraction] = []
    codec, first = stream.codec_context.name, None
    for packet in _packets(container, stream, name, damage):
        if first is None:
            first = next(iter(_decoded(stream, packet, Damage())), None)
        if not packet.size or _is_hidden(packet, codec):
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
        given = tuple(index / rate for index in range(len(shown)))
        return PacketTimes(len(shown), given, (), first)
    seekable = tuple(sorted(keys)) if _is_indexed(container) else ()
    return PacketTimes(len(shown), tuple(times), seekable, first)


def _open_file(source: bytes | Path) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_regular(
        source, max_bytes=MAX_FILE_BYTES, hint="Name a video or image file.", error=VideoError
    )


def _open_container(file: BinaryIO, name: str) -> InputContainer:
    """Open a file object, which has no name: FFmpeg would choose formats and other files by it."""
    # By its content, FFmpeg takes a photograph with a second picture for a video.
    form = "jpeg_pipe" if is_photograph(file) else None
    file.seek(0)
    try:
        return av.open(file, "r", form, metadata_errors="ignore", options=_CONTAINER_OPTIONS)
    except (ArgumentError, InvalidDataError) as error:
        if problem := problem_of(file):
            raise VideoError(f"Cannot decode {name}: {problem}.", hint=_OTHER_FILE) from error
        problem = "it is damaged, or not a video or image of a supported format"
        raise damaged(name, problem) from error


def _video_stream(container: InputContainer, file: BinaryIO, name: str) -> VideoStream:
    """Return the stream that the `ffmpeg` program picks: by default marks first, then by pixels.

    So the largest of several versions is read, and the colors of an AVIF file, not its mask.
    """
    streams: list[VideoStream] = []
    for stream in container.streams.video:
        # A picture on the cover of a song is no video.
        if not stream.disposition & Disposition.attached_pic:
            streams.append(stream)
    found = [stream for stream in streams if not _problem_of(stream)]
    if found:
        # The first one of several that are equal; but of an AVIF file, rather the animation than
        # its first picture.
        is_animation = container.metadata.get("major_brand") == "avis"
        return max(found, key=lambda stream: (_rank(stream), is_animation and stream.frames))
    problem = problem_of(file)
    if not problem:
        tags = ", ".join(codec_tags(file))
        problem = _problem_of(streams[0], tags) if streams else "it has no picture"
    raise VideoError(f"Cannot decode {name}: {problem}.", hint=_OTHER_FILE)


def _problem_of(stream: VideoStream, tags: str = "") -> str:
    """Return why a video stream is not read; nothing if it is."""
    # A stream without a decoder has no context (whatever PyAV's stubs say).
    context = cast(VideoCodecContext | None, stream.codec_context)
    if context is None:
        return f"laser-jnd has no decoder for its codec{tags and f' ({tags})'}"
    if context.codec_tag == "encv":
        return "it is encrypted"
    if context.name not in CODECS:
        return f"the codec {context.name} is not supported"
    if context.width * context.height > MAX_PIXELS:
        size = f"{context.width}x{context.height}"
        return f"it has {size} pixels; the limit is {MAX_PIXELS:,}"
    if not context.width or not context.pix_fmt:
        return f"its picture is damaged, or above the limit of {MAX_PIXELS:,} pixels"
    return ""


def _rank(stream: VideoStream) -> int:
    is_default = bool(stream.disposition & Disposition.default)
    return stream.codec_context.width * stream.codec_context.height + _DEFAULT_PIXELS * is_default


def _packets(
    container: InputContainer, stream: VideoStream, name: str, damage: Damage | None
) -> "Iterator[Packet[VideoStream]]":
    """Yield all packets, the last one empty (it flushes the decoder); raise if truncated."""
    end, last, count = Fraction(0), 0, 0
    is_still = is_still_image(container)
    # FFmpeg paints over the last rows of a JPEG that lacks less than a few dozen bytes. Pictures
    # in a video are not checked: some cameras omit the end marker there.
    is_jpeg = is_still and stream.codec_context.name == "mjpeg"
    for packet in _demuxed(container, stream, damage):
        if count > MAX_FRAMES:
            raise VideoError(f"{name} has more than {MAX_FRAMES:,} frames.", hint="Cut it.")
        if packet.is_corrupt and damage is None:
            raise damaged(name, f"packet {count} is truncated or damaged")
        if packet.dts is not None:
            last = max(last, packet.dts)
        if not packet.size and packet.dts is not None:
            count += 1  # a repeated picture in AVI; a decoder would take it for the end
            continue
        if packet.size:
            if is_still and count:
                continue  # a preview or a video that a camera has appended
            count += 1
            if is_jpeg and not _has_jpeg_end(bytes(packet)):
                _truncated(damaged(name, "it is truncated (no JPEG end marker)"), damage)
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * _time_base(stream))
        yield packet
    # In AVI, frames that repeat another one count, but have no packet: the clock counts them.
    if problem := _early_end(container, stream, end, max(count, last + last // max(1, count - 1))):
        _truncated(damaged(name, f"it is truncated ({problem})"), damage)


def _demuxed(
    container: InputContainer, stream: VideoStream, damage: Damage | None
) -> "Iterator[Packet[VideoStream]]":
    """Yield all packets, and the last one, which is empty, also where a demuxer fails."""
    try:
        yield from container.demux(stream)
    except FFmpegError as error:
        if damage is None or isinstance(error, MemoryError):  # no damage of the file
            raise
        damage.is_truncated = True
        flush = cast("Packet[VideoStream]", Packet())
        flush.stream = stream
        yield flush


def _decoded(
    stream: VideoStream, packet: "Packet[VideoStream]", damage: Damage | None
) -> list[av.VideoFrame]:
    """Return the frames that a packet completes; where damage is counted, maybe none."""
    try:
        frames = stream.decode(packet)
    except FFmpegError as error:
        if damage is None or isinstance(error, MemoryError):  # no damage of the file
            raise
        damage.num_lost += 1
        return []
    if damage is not None:
        damage.num_concealed += sum(frame.is_corrupt for frame in frames)
    return frames


def _decode_to(
    container: InputContainer,
    stream: VideoStream,
    time: Fraction,
    keys: Sequence[Fraction],
    damage: Damage | None,
) -> Iterator[av.VideoFrame]:
    """Yield frames from the last key picture on after which the one at `time` decodes."""
    for key in reversed(keys):
        container.seek(round(key / _time_base(stream)), stream=stream)
        decoded = _decode_from_key(container, stream, key, damage)
        first = next(decoded, None)
        # With periodic intra refresh, a key picture only starts a refresh, and the decoder shows
        # nothing until it is complete.
        is_late = first is None or (presentation_time(first) or time) > time
        if first is not None and (not is_late or key == keys[0]):
            yield first
            yield from decoded
            return


def _decode_from_key(
    container: InputContainer, stream: VideoStream, key: Fraction, damage: Damage | None
) -> Iterator[av.VideoFrame]:
    for packet in _demuxed(container, stream, damage):
        # Pictures shown before the key picture refer to a group that was skipped.
        if packet.pts is not None and packet.pts * _time_base(stream) < key:
            yield from _decoded(stream, packet, Damage())
        else:
            yield from _decoded(stream, packet, damage)


def _truncated(error: VideoError, damage: Damage | None) -> None:
    """Count that a file ends early, or raise the error."""
    if damage is None:
        raise error
    damage.is_truncated = True


def _is_hidden(packet: "Packet[VideoStream]", codec: str) -> bool:
    """Return whether a picture is not shown: other pictures refer to it ("alt-ref").

    Source: RFC 6386, section 9.1, and the VP9 bitstream specification, sections 6.2 and B.
    """
    if codec not in ("vp8", "vp9"):
        return False
    data = bytes(packet)
    first = data[0]
    if codec == "vp8":
        return not first >> 4 & 1
    if data[-1] >> 5 == 0b110:  # several pictures in one packet, the last one shown
        return False
    # frame_marker (2 bits), profile (2), a reserved bit in profile 3, show_existing_frame,
    # frame_type, show_frame
    bits = int.from_bytes(data[:2].ljust(2, b"\0")) << (first >> 4 & 3 == 3)
    return not bits >> 11 & 1 and not bits >> 9 & 1


def _check_index(
    container: InputContainer, stream: VideoStream, name: str, damage: Damage | None
) -> None:
    """Raise if the index points past the end: the decoder accepts a cut between two packets."""
    if not _is_indexed(container) or container.size <= 0:
        return
    last = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if last > container.size:
        _truncated(damaged(name, f"it is truncated ({container.size} of {last} bytes)"), damage)


def _has_jpeg_end(data: bytes) -> bool:
    """Return whether the end marker follows the start of the first scan.

    A thumbnail before the scan has its own. Encoded pixels cannot contain the marker, and data
    after it does no harm.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return data.find(b"\xff\xd9", position) >= 0


def _early_end(container: InputContainer, stream: VideoStream, end: Fraction, count: int) -> str:
    """Return how much of a file is there if it ends before the stated end, else nothing."""
    if container.format.name == "avi" and count < stream.frames:
        return f"{count} of {stream.frames} frames"
    stated = _matroska_duration(stream)
    # Two frames of tolerance: muxers disagree on whether the last frame's duration counts.
    if stated is not None and end + 2 / frame_rate(stream) < stated:
        return f"{float(end):.3f} of {float(stated):.3f} s"
    return ""


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
