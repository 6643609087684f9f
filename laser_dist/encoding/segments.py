"""The packets of scenes, encoded in one go or in segments on several machines."""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import av
import av.logging
from av.codec.context import CodecContext, Flags
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream

from laser_dist.encoding.encoders import CODECS, EncoderSettings, quiet_encoders, usual_priority
from laser_dist.encoding.prepare import is_deep, prepared_frames
from laser_dist.errors import UserError
from laser_dist.video.containers import (
    Damage,
    damaged,
    frame_rate,
    open_video,
    presentation_time,
)
from laser_dist.video.frames import display_matrix, is_sideways
from laser_dist.video.packets import PacketTimes, decode_frames, decode_frames_at, scan_packets

Values = Sequence[tuple[range, float]]
"""Frames and quantizer of each scene, in order, without gaps."""

_KEYS_BEFORE = 100  # where pictures are refreshed step by step, decoding starts earlier
_REFUSED = ("Error parsing option", "Unknown option", "unknown option", "Error applying")
_log_settings = Lock()  # FFmpeg has one log level for all threads


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a clip that can be encoded without the others.

    Attributes:
      values: frames and quantizer of each of its scenes.
      times: presentation time of each of its frames, in seconds; empty for the complete clip.
      key_times: those at which decoding can start, from some before the segment to its end.
    """

    values: Values
    times: tuple[Fraction, ...] = ()
    key_times: tuple[Fraction, ...] = ()


class EncodedPacket(NamedTuple):
    """A packet of an encoder; times are in units of `EncodedSegment.time_base`."""

    pts: int | None
    dts: int | None
    duration: int | None
    is_keyframe: bool
    data: bytes


@dataclass(frozen=True, eq=False)
class EncodedSegment:
    """What became of a `Segment`.

    Attributes:
      headers: of the encoder, for the container.
      time_base: seconds per unit of the packets' times.
      packets: in the order of decoding.
    """

    headers: bytes
    time_base: Fraction
    packets: tuple[EncodedPacket, ...]


def segments_of(source: Path, values: Values, seconds: float) -> list[Segment]:
    """Divide a clip for `encode_segment`.

    Args:
      source: path of a video.
      values: frames and quantizer of each scene.
      seconds: least length of a segment but the last one; a segment has complete scenes.

    Returns:
      The segments in order. A single one, if frames cannot be found by their times, or depend on
      others: outside of MP4, MOV, Matroska and WebM, and in interlaced video.

    Raises:
      UserError: the source is not a video.
    """
    name = str(source)
    with open_video(source, name, Damage()) as (container, stream):
        packets = scan_packets(container, stream, name, Damage())
    times, first = packets.times, packets.first
    is_divisible = packets.key_times and first is not None and not first.interlaced_frame
    if not is_divisible or len(set(times)) < len(times):
        return [Segment(values=tuple(values))]
    found: list[list[tuple[range, float]]] = [[]]
    for frames, quantizer in values:
        scenes = found[-1]
        if scenes and times[frames.start] - times[scenes[0][0].start] >= seconds:
            found.append(scenes := [])
        scenes.append((frames, quantizer))
    keys, ends = packets.key_times, [each[0][0].start for each in found[1:]]
    segments: list[Segment] = []
    for scenes, start, end in zip(found, [0, *ends], [*ends, len(times)], strict=True):
        first_key = max(0, bisect_right(keys, times[start]) - _KEYS_BEFORE)
        last_key = bisect_right(keys, times[end - 1])
        segments.append(
            Segment(
                values=tuple(scenes), times=times[start:end], key_times=keys[first_key:last_key]
            )
        )
    return segments


def encode_segment(source: Path, settings: EncoderSettings, segment: Segment) -> EncodedSegment:
    """Encode some scenes as `transcode` encodes them, with equal packets.

    Args:
      source: path of a video.
      settings: encoder.
      segment: from `segments_of`.

    Raises:
      UserError: as `transcode`.
    """
    quiet_encoders()
    name, damage = str(source), Damage()
    with open_video(source, name, damage) as (container, stream):
        decoded = decode_frames(container, stream, name, damage)
        head = next(decoded, None)
        if head is None:
            raise damaged(name, "it has no frames")
        if segment.times:
            index = PacketTimes(len(segment.times), segment.times, segment.key_times)
            found = decode_frames_at(container, stream, segment.times, index, damage)
            last = segment.times[-1]  # in place of a lost frame is the next one, of another segment
            decoded = (each for each in found if (presentation_time(each) or last) <= last)
        else:
            decoded = chain([head], decoded)
        frames = prepared_frames(decoded, stream, name, head=head)
        first = next(frames, None)
        if first is None:
            raise damaged(name, "a scene has no frames")
        context = CodecContext.create(CODECS[settings.codec].library, "w")
        assert isinstance(context, VideoCodecContext)
        context.framerate = frame_rate(stream)
        context.sample_aspect_ratio = pixel_aspect(stream, head)
        context.flags |= Flags.global_header  # all of `FORMATS` have headers in the container
        set_up(context, first, settings, segment.values[0][1])
        with _encoder_errors(settings):
            start_encoder(context.open, settings)
            encoded = scene_packets(chain([first], frames), context, settings, segment.values)
            packets = [
                EncodedPacket(each.pts, each.dts, each.duration, each.is_keyframe, bytes(each))
                for _, each in encoded
            ]
        return EncodedSegment(context.extradata or b"", context.time_base, tuple(packets))


@contextmanager
def _encoder_errors(settings: EncoderSettings) -> Generator[None]:
    """Turn FFmpeg's errors in the block into one for people."""
    try:
        yield
    except (FFmpegError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f'{settings.codec} cannot encode: FFmpeg reports "{text}".',
            hint="Check --encoder-options.",
        ) from error


def joined_packets(
    segments: Iterable[EncodedSegment], first: VideoCodecContext, settings: EncoderSettings
) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments of a clip, in order.

    Args:
      segments: of a clip, in order.
      first: an open encoder with the same settings.
      settings: encoder.

    Raises:
      UserError: the segments have other headers than the encoder.
    """
    for segment in segments:
        if segment.headers != first.extradata:
            raise _other_headers(settings)
        for each in segment.packets:
            packet: Packet[Any] = Packet(each.data)
            packet.pts, packet.dts, packet.duration = each.pts, each.dts, each.duration
            packet.time_base = segment.time_base
            packet.is_keyframe = each.is_keyframe
            yield packet


def scene_packets(
    frames: Iterator[av.VideoFrame],
    first: VideoCodecContext,
    settings: EncoderSettings,
    values: Values,
) -> Iterator[tuple[int, Packet[Any]]]:
    """Yield the number of frames that the encoders have taken, and each packet.

    Each scene has an encoder: with a zone per scene, x264 would give the first frame of a scene
    the quantizer of the scene before.

    Args:
      frames: of the scenes, in order, from `prepared_frames`.
      first: encoder of the first scene, open.
      settings: encoder.
      values: frames and quantizer of each scene.

    Raises:
      UserError: the encoder writes other headers for a scene.
    """
    context = first
    start = values[0][0].start
    starts = {frames_of.start - start: quantizer for frames_of, quantizer in values[1:]}
    count = 0
    for frame in frames:
        if count in starts:
            yield from ((count, packet) for packet in context.encode(None))
            context = _next_encoder(first, frame, settings, starts[count])
        count += 1
        # Not the type that it had in the source, which the encoder would copy.
        frame.pict_type = PictureType.NONE
        yield from ((count, packet) for packet in context.encode(frame))
    yield from ((count, packet) for packet in context.encode(None))


def ascending(encoded: Iterable[tuple[int, Packet[Any]]]) -> Iterator[tuple[int, Packet[Any]]]:
    """Yield packets whose decoding times ascend, also from one encoder to the next."""
    last = None
    for count, packet in encoded:
        if last is not None and packet.dts is not None and packet.dts <= last:
            packet.dts = last + 1
        last = packet.dts
        yield count, packet


def pixel_aspect(source: VideoStream, head: av.VideoFrame) -> Fraction:
    """Return the shape of a pixel, width to height, of an upright frame.

    Args:
      source: stream of the frames.
      head: its first frame.
    """
    aspect = source.sample_aspect_ratio or Fraction(1)
    return 1 / aspect if is_sideways(display_matrix(head)) else aspect


def set_up(
    context: VideoCodecContext,
    first: av.VideoFrame,
    settings: EncoderSettings,
    quantizer: float,
) -> None:
    """Set up an encoder that is not open yet.

    Args:
      context: the encoder.
      first: its first frame, from `prepared_frames`.
      settings: options of the encoder.
      quantizer: QP or CRF.
    """
    context.width, context.height, context.pix_fmt = first.width, first.height, first.format.name
    context.time_base = first.time_base
    context.color_range = int(first.color_range)
    context.colorspace = int(first.colorspace)
    context.color_primaries = int(first.color_primaries)
    context.color_trc = int(first.color_trc)
    context.options = settings.encoder_options(quantizer, is_deep=is_deep(first))


def start_encoder(open_encoder: Callable[[], Any], settings: EncoderSettings) -> None:
    """Open an encoder; FFmpeg warns of options that an encoder does not know, and goes on."""
    with _log_settings:
        level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.WARNING)
        av.logging.set_skip_repeated(False)  # the message of the clip before may be the same
        try:
            with av.logging.Capture() as messages, usual_priority():
                open_encoder()
        finally:
            av.logging.set_level(level)
            av.logging.set_skip_repeated(skips)
    for _, _, message in messages:
        if any(text in message for text in _REFUSED):
            raise UserError(
                f"{settings.codec} refuses an option: {message.strip().rstrip('.')}.",
                hint="Check --encoder-options.",
            )


def _next_encoder(
    first: VideoCodecContext, frame: av.VideoFrame, settings: EncoderSettings, quantizer: float
) -> VideoCodecContext:
    """Return an encoder for the next scene, with the headers of the first one."""
    context = CodecContext.create(CODECS[settings.codec].library, "w")
    assert isinstance(context, VideoCodecContext)
    context.framerate, context.sample_aspect_ratio = first.framerate, first.sample_aspect_ratio
    context.flags = first.flags  # headers in the container, not in the stream
    set_up(context, frame, settings, quantizer)
    with usual_priority():
        context.open()
    if context.extradata != first.extradata:
        raise _other_headers(settings)
    return context


def _other_headers(settings: EncoderSettings) -> UserError:
    return UserError(
        f"{settings.codec} writes other headers for another quantizer.",
        hint="Add --constant, or remove what makes them differ from --encoder-options.",
    )
