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
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from laser_dist.errors import UserError
from laser_dist.storage import limit, open_regular
from laser_dist.storage.retries import is_transient
from laser_dist.video.heif import assembled, grid_of
from laser_dist.video.signatures import ENCRYPTED, codec_tags, is_photograph, problem_of
from laser_dist.video.through_pillow import PillowError, picture_of, size_of, video_of

MIN_SIZE = 16
"""Smallest width and height in pixels: one macroblock."""

MAX_PIXELS = limit("MAX_PIXELS", 1 << 26)
"""Largest frame, 8192x8192; a decoder allocates what a header states."""

_DAMAGED_OR_LARGE = f"its picture is damaged, or above the limit of {MAX_PIXELS:,} pixels"

MAX_FILE_BYTES = limit("MAX_FILE_BYTES", 1 << 36)
"""Largest file that is read piece by piece, 64 GiB."""

PROBE_BYTES = limit("PROBE_BYTES", 5_000_000)
"""Part of a file that FFmpeg may read and decode to find its streams."""

MAX_STREAMS = limit("MAX_STREAMS", 500)
"""Most streams of a file: each has a decoder. A photograph of 48 million pixels has 200 tiles."""

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
"""FFmpeg's names of the decoders of video that are used."""

SOUND_DECODERS = (
    *("aac", "aac_latm", "ac3", "eac3", "opus", "libopus", "mp1", "mp1float", "mp2", "mp2float"),
    *("mp3", "mp3float", "vorbis", "flac", "alac", "dca", "mlp", "truehd", "wavpack", "tta", "ape"),
    *("wmav1", "wmav2", "wmapro", "wmalossless", "amrnb", "amrwb", "gsm", "speex", "adpcm_ms"),
    *("adpcm_ima_qt", "adpcm_ima_wav"),
    *sorted(name for name in av.codecs_available if name.startswith("pcm_")),
)
"""FFmpeg's names of the decoders of sound that are used, where sound is copied or converted."""

_CONTAINER_OPTIONS = {
    "format_whitelist": ",".join((*VIDEO_FORMATS, *(f"{name}_pipe" for name in IMAGE_FORMATS))),
    "protocol_whitelist": "",  # FFmpeg itself opens nothing: it reads through a file object
    "max_pixels": str(MAX_PIXELS),
    "max_streams": str(MAX_STREAMS),
    "probesize": str(PROBE_BYTES),
}
_INDEXED = ("mov,", "matroska,")
_DEFAULT_PIXELS = 5_000_000  # of `ffmpeg`: what the mark of a default stream counts
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
    with _converting_errors(name), _open_file(source) as file:
        if not file.read(1):
            raise VideoError(f"{name} is empty.", hint="Replace it with a complete copy.")
        picture = picture_of(file, max_pixels=MAX_PIXELS)
        file = picture or video_of(file) or _assembled(file, name, damage)
        with _open_container(file, name) as container:
            stream = _video_stream(container, file, name)
            _set_up(stream, damage)
            _check_index(container, stream, name, damage)
            yield container, stream


@contextmanager
def open_all_streams(source: Path, name: str) -> Generator[InputContainer]:
    """Open a file to copy or convert its sound, and to copy its subtitles.

    Some headers state neither the rate nor the channels of sound: FFmpeg then decodes some of it.

    Arguments and errors are those of `open_video`.
    """
    decoders = (*CODECS, *SOUND_DECODERS)
    with (
        _converting_errors(name),
        _open_file(source) as file,
        _open_container(file, name, decoders) as container,
    ):
        yield container


@contextmanager
def _converting_errors(name: str) -> Generator[None]:
    """Turn errors of FFmpeg and Pillow inside the block into `VideoError`."""
    try:
        yield
    except PillowError as error:
        raise damaged(name, str(error)) from error
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


def _open_file(source: bytes | Path) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_regular(
        source, max_bytes=MAX_FILE_BYTES, hint="Name a video or image file.", error=VideoError
    )


def _open_container(file: BinaryIO, name: str, decoders: Sequence[str] = CODECS) -> InputContainer:
    """Open a file object, which has no name: FFmpeg would choose formats and other files by it."""
    # By its content, FFmpeg takes a photograph with a second picture for a video.
    form = "jpeg_pipe" if is_photograph(file) else None
    file.seek(0)
    try:
        options = {**_CONTAINER_OPTIONS, "codec_whitelist": ",".join(decoders)}
        return av.open(file, "r", form, metadata_errors="ignore", options=options)
    except (ArgumentError, InvalidDataError) as error:
        if problem := problem_of(file):
            raise VideoError(f"Cannot decode {name}: {problem}.", hint=_OTHER_FILE) from error
        problem = "it is damaged, or not a video or image of a supported format"
        raise damaged(name, problem) from error


def _set_up(stream: VideoStream, damage: Damage | None) -> None:
    # One thread: the order of errors, and so the frames, do not depend on the machine.
    stream.codec_context.thread_count = 1
    strict = {} if damage else {"err_detect": "explode"}
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), **strict}


def _assembled(file: BinaryIO, name: str, damage: Damage | None) -> BinaryIO:
    """Return a photograph of tiles, cropped or transparent, as one picture; any other as it is."""
    if not (grid := grid_of(file)):
        return file
    tiles: dict[int, av.VideoFrame] = {}
    with _open_container(file, name) as container:
        streams = [stream for stream in container.streams.video if stream.id in grid.items]
        if any(_problem_of(stream) for stream in streams):
            return file  # `_video_stream` raises
        num_pixels = sum(each.codec_context.width * each.codec_context.height for each in streams)
        if num_pixels > MAX_PIXELS:
            problem = f"it has {num_pixels:,} pixels; the limit is {MAX_PIXELS:,}"
            raise VideoError(f"Cannot decode {name}: {problem}.", hint=_OTHER_FILE)
        for stream in streams:
            _set_up(stream, damage)
        for packet in container.demux(streams):
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                tiles.setdefault(packet.stream.id, frame)
    if len(tiles) < len(grid.items):
        raise damaged(name, f"{len(tiles)} of its {len(grid.items)} tiles decode")
    return io.BytesIO(assembled(grid, tiles))


def _video_stream(container: InputContainer, file: BinaryIO, name: str) -> VideoStream:
    """Return the stream that the `ffmpeg` program picks: by default marks first, then by pixels.

    So the largest of several versions is read, and the colors of an AVIF file, not its mask.
    """
    streams: list[VideoStream] = []
    for stream in container.streams.video:
        # A picture on the cover of a song is no video.
        if not stream.disposition & Disposition.attached_pic:
            streams.append(stream)
    readable = [stream for stream in streams if not _problem_of(stream)]
    found = [stream for stream in readable if not stream.disposition & Disposition.dependent]
    if found:
        # The first one of several that are equal; but of an AVIF file, rather the animation than
        # its first picture.
        is_animation = container.metadata.get("major_brand") == "avis"
        return max(found, key=lambda stream: (_rank(stream), is_animation and stream.frames))
    problem = problem_of(file)
    if readable:
        problem = "its picture is made of parts in a way that laser-jnd does not read"
    if not problem:
        tags = ", ".join(codec_tags(file))
        problem = _problem_of(streams[0], tags) if streams else "it has no picture"
        size = size_of(file)
        if problem == _DAMAGED_OR_LARGE and size is not None:
            is_large = size[0] * size[1] > MAX_PIXELS
            problem = _too_large(*size) if is_large else "its picture is damaged"
    raise VideoError(f"Cannot decode {name}: {problem}.", hint=_OTHER_FILE)


def _problem_of(stream: VideoStream, tags: str = "") -> str:
    """Return why a video stream is not read; nothing if it is."""
    # A stream without a decoder has no context (whatever PyAV's stubs say).
    context = cast(VideoCodecContext | None, stream.codec_context)
    if context is None:
        return f"laser-jnd has no decoder for its codec{tags and f' ({tags})'}"
    if context.codec_tag in ENCRYPTED:
        return "it is encrypted"
    if context.name not in CODECS:
        return f"the codec {context.name} is not supported"
    if context.width * context.height > MAX_PIXELS:
        return _too_large(context.width, context.height)
    if not context.width or not context.pix_fmt:
        return _DAMAGED_OR_LARGE
    return ""


def _too_large(width: int, height: int) -> str:
    return f"it has {width}x{height} pixels; the limit is {MAX_PIXELS:,}"


def _rank(stream: VideoStream) -> int:
    is_default = bool(stream.disposition & Disposition.default)
    return stream.codec_context.width * stream.codec_context.height + _DEFAULT_PIXELS * is_default


def raise_or_count(error: VideoError, damage: Damage | None) -> None:
    """Count that a file ends early, or raise the error."""
    if damage is None:
        raise error
    damage.is_truncated = True


def _check_index(
    container: InputContainer, stream: VideoStream, name: str, damage: Damage | None
) -> None:
    """Raise if the index points past the end: the decoder accepts a cut between two packets."""
    if not is_indexed(container) or container.size <= 0:
        return
    last = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if last > container.size:
        raise_or_count(damaged(name, f"it is truncated ({container.size} of {last} bytes)"), damage)


def is_still_image(container: InputContainer) -> bool:
    """Return whether a file is a still image, such as a JPEG."""
    return container.format.name.endswith("_pipe")


def is_indexed(container: InputContainer) -> bool:
    """Return whether a container has an index of file positions, and seeks exactly."""
    return container.format.name.startswith(_INDEXED)
