"""Encode the video of a file, and copy everything else: sound, subtitles, chapters, metadata."""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import av
import av.logging
from av.codec.context import CodecContext
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream

from laser_dist.encoding.encoders import CODECS, EncoderSettings, quiet_encoders
from laser_dist.errors import UserError
from laser_dist.video.containers import Damage, damaged, frame_rate, open_all_streams, open_video
from laser_dist.video.facts import ClipFacts, clip_facts
from laser_dist.video.frames import (
    SCALER_FLAGS,
    UPRIGHT,
    display_matrix,
    is_sideways,
    upright_size,
)
from laser_dist.video.packets import decode_frames
from laser_dist.video.quality import XPSNR_MIN_AREA

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container by the suffix of a file."""

_COPIED = ("audio", "subtitle")
# What the muxer writes itself.
_OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "DURATION"}
_REFUSED = ("Error parsing option", "Unknown option", "unknown option", "Error applying")
_log_settings = Lock()  # FFmpeg has one log level for all threads

Values = Sequence[tuple[range, float]]
"""Frames and quantizer of each scene, in order, without gaps."""


@dataclass(frozen=True, kw_only=True)
class Transcoded:
    """What was encoded.

    Attributes:
      num_frames: number of frames.
      video_bytes: size of the encoded pictures.
      left_out: what was not copied, in a few words each.
      damage: damage of the source that was concealed.
    """

    num_frames: int
    video_bytes: int
    left_out: tuple[str, ...]
    damage: Damage


def checked_facts(source: Path, settings: EncoderSettings, *, allow_hdr: bool) -> ClipFacts:
    """Return how a clip is coded, if it can be encoded and compared.

    Args:
      source: path of a video.
      settings: encoder.
      allow_hdr: whether HDR is encoded, although the levels are of SDR.

    Raises:
      UserError: it is missing, a still image, in HDR, or smaller than the encoder or the filter
        that compares it can take.
    """
    facts = clip_facts(source)
    if facts.duration_s == 0:
        raise UserError(f"{source} is a still image.", hint="Name a video.")
    if facts.hdr and not allow_hdr:
        raise UserError(
            f"{source} is HDR ({facts.hdr}), and the levels are of SDR.",
            hint="Add --hdr allow to encode it at the levels of its tone-mapped frames.",
        )
    least = CODECS[settings.codec].min_side
    is_small = min(facts.width, facts.height) < least
    if is_small or facts.width * facts.height < XPSNR_MIN_AREA:
        raise UserError(
            f"{source} has {facts.width}x{facts.height} pixels; {settings.codec} needs sides of"
            f" {least}, and the comparison {XPSNR_MIN_AREA} pixels.",
            hint="Name a larger clip.",
        )
    return facts


def transcode(
    source: Path,
    output: Path,
    settings: EncoderSettings,
    values: Values,
    *,
    size: tuple[int, int] | None = None,
    video_only: bool = False,
    progress: Callable[[int], None] = lambda num_frames: None,
) -> Transcoded:
    """Encode the video of a file into another one, and copy its other streams.

    Frames are turned as the file asks, interlaced ones are deinterlaced, and odd sizes are cropped
    by a row or column. Times, color description and 10 bits are kept; the chroma becomes 4:2:0.

    Args:
      source: path of a video.
      output: path to write, with a suffix of `FORMATS`.
      settings: encoder.
      values: quantizer of each scene: QP or CRF, as `settings.rate` says.
      size: as for `prepared_frames`.
      video_only: whether to leave out the other streams and the metadata.
      progress: called with the number of frames that are encoded.

    Raises:
      UserError: the source is not a video or has no frame, its frames change size, the encoder
        refuses an option, or a stream does not fit into the container.
      OSError: the output cannot be written.
    """
    quiet_encoders()
    name, damage = str(source), Damage()
    with (
        open_video(source, name, damage) as (container, stream),
        open_all_streams(source, name) as everything,
    ):
        decoded = decode_frames(container, stream, name, damage)
        head = next(decoded, None)
        if head is None:
            raise damaged(name, "it has no frames")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if is_sideways(display_matrix(head)):
            aspect = 1 / aspect
        frames = prepared_frames(chain([head], decoded), stream, name, size)
        first = next(frames)
        num_frames = 0
        with _written(output) as target:
            video = _add_video(target, stream, first, aspect, settings, values)
            others, left_out = {}, ()
            if not video_only:
                others, left_out = _add_others(target, everything)
                target.metadata.update(_tags(everything.metadata))
                with suppress(ValueError):  # chapters without a title or time
                    target.set_chapters(everything.chapters())
            _start(target, settings)
            copied = _copied(everything, others)
            pending = next(copied, None)
            video_bytes = 0
            for packet, num_frames in _encoded(chain([first], frames), video, settings, values):
                progress(num_frames)
                time = (packet.dts or 0) * (packet.time_base or 1)
                while pending is not None and pending[0] <= time:
                    target.mux(pending[1])
                    pending = next(copied, None)
                packet.stream = video
                video_bytes += packet.size
                target.mux(packet)
            while pending is not None:
                target.mux(pending[1])
                pending = next(copied, None)
    return Transcoded(
        num_frames=num_frames, video_bytes=video_bytes, left_out=left_out, damage=damage
    )


def prepared_frames(
    frames: Iterator[av.VideoFrame],
    stream: VideoStream,
    name: str,
    size: tuple[int, int] | None = None,
) -> Iterator[av.VideoFrame]:
    """Yield frames as they are encoded: upright, progressive, of even size, 4:2:0.

    Args:
      frames: decoded frames, in order.
      stream: their stream, whose clock is used; a frame without a time follows from the rate.
      name: name of the file in error messages.
      size: (width, height) in pixels to scale to, both even; None to keep the size.

    Raises:
      VideoError: the frames change size or format.
    """
    first = next(frames, None)
    if first is None:
        return
    form, base = (first.width, first.height, first.format.name), stream.time_base
    graph = _graph(first, stream, size)
    last = None
    step = max(1, round(1 / (frame_rate(stream) * base))) if base else 1

    def timed(frame: av.VideoFrame) -> av.VideoFrame:
        nonlocal last
        pts = frame.pts if frame.pts is not None else 0 if last is None else last + step
        frame.pts = last = pts if last is None else max(pts, last + 1)
        frame.time_base = base or 1 / frame_rate(stream)
        return frame

    for frame in chain([first], frames):
        if (frame.width, frame.height, frame.format.name) != form:
            raise damaged(name, "its frames change size")
        if graph is None:
            yield timed(frame)
            continue
        graph.push(timed(frame))
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame


def _graph(first: av.VideoFrame, stream: VideoStream, size: tuple[int, int] | None) -> Graph | None:
    """Return the filters that frames need; None if they need none."""
    filters: list[tuple[str, str]] = []
    if first.interlaced_frame:
        filters.append(("bwdif", "mode=send_frame"))
    matrix = display_matrix(first)
    if matrix != UPRIGHT:
        a, b, c, d = matrix
        if is_sideways(matrix):
            filters.append(("transpose", "dir=cclock_flip"))  # swaps rows and columns only
            a, d = c, b
        filters += [("vflip", "")] * (d < 0) + [("hflip", "")] * (a < 0)
        # The frame is upright now, and must not be turned again.
        filters.append(("sidedata", "mode=delete:type=DISPLAYMATRIX"))
    if first.width % 2 or first.height % 2:
        filters.append(("crop", "trunc(iw/2)*2:trunc(ih/2)*2:0:0"))
    bits = max(component.bits for component in first.format.components)
    wanted = "yuv420p10le" if bits > 8 else "yuv420p"
    if first.format.name != wanted:
        if first.format.is_rgb:
            filters.append(("scale", "out_color_matrix=bt709:out_range=tv"))
        filters.append(("format", wanted))
    if size is not None and size != upright_size(first):
        filters.append(("scale", f"{size[0]}:{size[1]}:flags={SCALER_FLAGS}"))
    if not filters:
        return None
    graph = Graph()
    graph.threads = 1
    base = stream.time_base or 1 / frame_rate(stream)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    last = graph.add(
        "buffer",
        f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}"
        f":time_base={base.numerator}/{base.denominator}"
        f":pixel_aspect={aspect.numerator}/{aspect.denominator}"
        f":colorspace={int(first.colorspace)}:range={int(first.color_range)}",
    )
    for name, options in (*filters, ("buffersink", "")):
        entry, last = last, graph.add(name, options or None)
        entry.link_to(last)
    graph.configure()
    return graph


@contextmanager
def _written(output: Path) -> Generator[OutputContainer]:
    """Open a container to write; turn FFmpeg's errors into one for people."""
    form = FORMATS[output.suffix.lower()]
    options = {"movflags": "+faststart"} if form in ("mp4", "mov") else {}
    try:
        # Not by the path only, which FFmpeg would take for an address if it looked like one.
        with av.open(f"file:{output}", "w", form, options=options) as target:
            yield target
    except (FFmpegError, ValueError) as error:
        if isinstance(error, OSError) and error.errno and error.errno > 0 and error.filename:
            raise  # the disk
        text = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f'The file cannot be written: FFmpeg reports "{text}".',
            hint=_other_container(form),
        ) from error


def _other_container(form: str) -> str:
    other = ".mp4" if form == "matroska" else ".mkv"
    return f"Write a {other} file, which takes other streams."


def _add_video(
    target: OutputContainer,
    source: VideoStream,
    first: av.VideoFrame,
    aspect: Fraction,
    settings: EncoderSettings,
    values: Values,
) -> VideoStream:
    codec = CODECS[settings.codec]
    video = target.add_stream(codec.library, rate=frame_rate(source))
    assert isinstance(video, VideoStream)
    video.codec_context.framerate = frame_rate(source)
    video.codec_context.sample_aspect_ratio = aspect
    _set_up(video.codec_context, first, settings, values[0][1])
    video.time_base = video.codec_context.time_base
    if codec.tag and target.format.name != "matroska":
        video.codec_context.codec_tag = codec.tag
    video.metadata.update(_tags(source.metadata))
    return video


def _set_up(
    context: VideoCodecContext,
    first: av.VideoFrame,
    settings: EncoderSettings,
    quantizer: float,
) -> None:
    context.width, context.height, context.pix_fmt = first.width, first.height, first.format.name
    context.time_base = first.time_base
    context.color_range = int(first.color_range)
    context.colorspace = int(first.colorspace)
    context.color_primaries = int(first.color_primaries)
    context.color_trc = int(first.color_trc)
    is_deep = first.format.name != "yuv420p"
    context.options = settings.encoder_options(quantizer, is_deep=is_deep)


def _start(target: OutputContainer, settings: EncoderSettings) -> None:
    """Open the encoders; FFmpeg warns of options that an encoder does not know, and goes on."""
    with _log_settings:
        level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)  # the message of the clip before may be the same
        try:
            with av.logging.Capture() as messages:
                target.start_encoding()
        finally:
            av.logging.set_level(level)
            av.logging.set_skip_repeated(skips)
    for _, _, message in messages:
        if any(text in message for text in _REFUSED):
            raise UserError(
                f"{settings.codec} refuses an option: {message.strip().rstrip('.')}.",
                hint="Check --encoder-options.",
            )


def _encoded(
    frames: Iterator[av.VideoFrame], video: VideoStream, settings: EncoderSettings, values: Values
) -> Iterator[tuple[Packet[Any], int]]:
    """Yield each packet, and the number of frames that the encoders have taken.

    Each scene has an encoder: with a zone per scene, x264 would give the first frame of a scene
    the quantizer of the scene before.
    """
    context = video.codec_context
    starts = {frames_of.start: quantizer for frames_of, quantizer in values[1:]}
    count, last = 0, None

    def ordered(packets: Iterable[Packet[Any]]) -> Iterator[tuple[Packet[Any], int]]:
        """Yield packets whose decoding times ascend, also from one encoder to the next."""
        nonlocal last
        for packet in packets:
            if last is not None and packet.dts is not None and packet.dts <= last:
                packet.dts = last + 1
            last = packet.dts
            yield packet, count

    for frame in frames:
        if count in starts:
            yield from ordered(context.encode(None))
            context = _next_encoder(video.codec_context, frame, settings, starts[count])
        count += 1
        # Not the type that it had in the source, which the encoder would copy.
        frame.pict_type = PictureType.NONE
        yield from ordered(context.encode(frame))
    yield from ordered(context.encode(None))


def _next_encoder(
    first: VideoCodecContext, frame: av.VideoFrame, settings: EncoderSettings, quantizer: float
) -> VideoCodecContext:
    """Return an encoder for the next scene, with the headers of the first one."""
    context = CodecContext.create(CODECS[settings.codec].library, "w")
    assert isinstance(context, VideoCodecContext)
    context.framerate, context.sample_aspect_ratio = first.framerate, first.sample_aspect_ratio
    context.flags = first.flags  # headers in the container, not in the stream
    _set_up(context, frame, settings, quantizer)
    context.open()
    if context.extradata != first.extradata:
        raise UserError(
            f"{settings.codec} writes other headers for another quantizer.",
            hint="Add --constant, or remove what makes them differ from --encoder-options.",
        )
    return context


def _add_others(
    target: OutputContainer, source: InputContainer
) -> tuple[dict[int, Any], tuple[str, ...]]:
    """Add the streams that are copied; return them by index, and what is left out."""
    added: dict[int, Any] = {}
    left_out: list[str] = []
    for stream in source.streams:
        if stream.type == "attachment":
            target.add_attachment(stream.name or "", stream.mimetype, stream.data)
        elif stream.type in _COPIED:
            what = f"{stream.type} stream {stream.index}"
            try:
                copy = target.add_stream_from_template(stream)
            except (ValueError, FFmpegError) as error:
                raise UserError(
                    f"The {what} does not fit into {target.format.name}.",
                    hint=_other_container(target.format.name),
                ) from error
            copy.metadata.update(_tags(stream.metadata))
            copy.disposition = stream.disposition
            added[stream.index] = copy
        elif stream.type == "data" and not source.chapters():
            left_out.append(f"data stream {stream.index}")
    return added, tuple(left_out)


def _copied(
    source: InputContainer, others: dict[int, Any]
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """Yield each packet of the streams that are copied, and its time in seconds."""
    streams = [source.streams[index] for index in others]
    if not streams:
        return
    for packet in source.demux(streams):
        if packet.size and packet.dts is not None:
            time = packet.dts * (packet.time_base or Fraction(1))
            packet.stream = others[packet.stream.index]
            yield time, packet


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if name not in _OWN_TAGS}
