"""Encode the video of a file, and copy everything else: sound, subtitles, chapters, metadata."""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from laser_dist.encoding.encoders import CODECS, EncoderSettings, quiet_encoders
from laser_dist.encoding.prepare import is_deep, prepared_frames, shaping_filters
from laser_dist.encoding.segments import (
    EncodedSegment,
    Values,
    ascending,
    joined_packets,
    pixel_aspect,
    scene_packets,
    set_up,
    start_encoder,
)
from laser_dist.errors import UserError
from laser_dist.video.containers import Damage, damaged, frame_rate, open_all_streams, open_video
from laser_dist.video.facts import ClipFacts, clip_facts
from laser_dist.video.packets import continued, decode_frames
from laser_dist.video.quality import XPSNR_MIN_AREA

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container by the suffix of a file."""

_COPIED = ("audio", "subtitle")
# What the muxer writes itself, and what Matroska's programs state of the packets of a stream.
_OWN_TAGS = ("encoder", "major_brand", "minor_version", "compatible_brands", "DURATION")
_STATISTICS = ("BPS", "NUMBER_OF_", "_STATISTICS_")
_STATIC_HDR = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")  # PyAV's names of side data


@dataclass(frozen=True, kw_only=True)
class Transcoded:
    """What was encoded.

    Attributes:
      num_frames: number of frames.
      video_bytes: size of the encoded pictures.
      left_out: what was not copied, in a few words each.
      damage: damage of the source that was concealed.
      source_index: position of the video among the streams of the source.
      filters: FFmpeg's filters that the upright frames went through; "" without.
      is_deep: whether the frames have 10 bits.
    """

    num_frames: int
    video_bytes: int
    left_out: tuple[str, ...]
    damage: Damage
    source_index: int
    filters: str
    is_deep: bool


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
    segments: Iterable[EncodedSegment] | None = None,
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
      segments: all frames, as `encode_segment` has encoded them; None to encode them here.
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
        frames = prepared_frames(chain([head], decoded), stream, name, size)
        first = next(frames)
        num_frames, source_index = 0, stream.index
        with _written(output) as target:
            video = _add_video(target, stream, head, first, settings, values)
            others: dict[int, Any] = {}
            left_out: list[str] = []
            if not video_only:
                others, left_out = _add_others(target, everything, source_index)
                if any(name in head.side_data for name in _STATIC_HDR):
                    left_out.append("mastering display and light levels of HDR")
                target.metadata.update(_tags(everything.metadata))
                with suppress(ValueError):  # chapters without a title or time
                    target.set_chapters(everything.chapters())
            start_encoder(target.start_encoding, settings)
            copied = _copied(everything, others, left_out)
            pending = next(copied, None)
            video_bytes = 0
            context = video.codec_context
            if segments is None:
                encoded = scene_packets(chain([first], frames), context, settings, values)
            else:
                encoded = enumerate(joined_packets(segments, context, settings), start=1)
            for num_frames, packet in ascending(encoded):
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
        num_frames=num_frames,
        video_bytes=video_bytes,
        left_out=tuple(left_out),
        damage=damage,
        source_index=source_index,
        filters=",".join("=".join(each) for each in shaping_filters(head, size)),
        is_deep=is_deep(first),
    )


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
    head: av.VideoFrame,
    first: av.VideoFrame,
    settings: EncoderSettings,
    values: Values,
) -> VideoStream:
    codec = CODECS[settings.codec]
    video = target.add_stream(codec.library, rate=frame_rate(source))
    assert isinstance(video, VideoStream)
    video.codec_context.framerate = frame_rate(source)
    video.codec_context.sample_aspect_ratio = pixel_aspect(source, head)
    set_up(video.codec_context, first, settings, values[0][1])
    video.time_base = video.codec_context.time_base
    if codec.tag and target.format.name != "matroska":
        video.codec_context.codec_tag = codec.tag
    tags = _tags(source.metadata).items()
    video.metadata.update({name: text for name, text in tags if not name.startswith(_STATISTICS)})
    return video


def _add_others(
    target: OutputContainer, source: InputContainer, encoded: int
) -> tuple[dict[int, Any], list[str]]:
    """Add the streams that are copied; return them by index, and what is left out.

    Args:
      target: file to write.
      source: file to copy from.
      encoded: position of the video that is encoded.
    """
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
        elif stream.type == "video" and stream.index != encoded:
            is_cover = Disposition.attached_pic in stream.disposition
            left_out.append(
                f"cover picture (stream {stream.index})"
                if is_cover
                else f"video stream {stream.index}"
            )
        elif stream.type == "data" and not source.chapters():
            left_out.append(f"data stream {stream.index}")
    return added, left_out


def _copied(
    source: InputContainer, others: dict[int, Any], left_out: list[str]
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """Yield each packet of the streams that are copied, and its time in seconds."""
    streams = [source.streams[index] for index in others]
    packets = continued(source, source.demux(streams)) if streams else iter(())
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            if isinstance(error, MemoryError):  # no damage of the file
                raise
            left_out.append("sound and subtitles from a damaged place on")
            packet = None
        if packet is None:
            return
        if packet.size and packet.dts is not None:
            time = packet.dts * (packet.time_base or Fraction(1))
            packet.stream = others[packet.stream.index]
            yield time, packet


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if name not in _OWN_TAGS}
