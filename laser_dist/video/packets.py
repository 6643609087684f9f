"""Read the packets of an open file, and decode them: completely, or at some times.

A file that ends before its stated end, and a frame that FFmpeg conceals, are errors, or are counted
in a `Damage`.
"""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from laser_dist.storage import limit
from laser_dist.video.containers import (
    Damage,
    VideoError,
    damaged,
    frame_rate,
    is_indexed,
    is_still_image,
    presentation_time,
    raise_or_count,
)
from laser_dist.video.cropping import cropped, margins_of

MAX_FRAMES = limit("MAX_FRAMES", 1_000_000)
"""Most frames of a file, about 4.6 hours at 60 per second; their times are kept in memory."""

_ROUNDING_S = Fraction(1, 1000)  # Matroska's unit of time
# FFmpeg's names of the formats that can be joined by joining the bytes of files.
_RESTARTING = ("mpegts", "mpeg")
_RESTART_S = 1  # decoding times do not go back within a file
# Codecs whose pictures state whether others refer to them, by FFmpeg's decoders of them.
_MARKED = ("h264", "hevc")


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
      frame_s: length of a frame by the nominal frame rate.
    """

    num_frames: int
    times: tuple[Fraction, ...]
    key_times: tuple[Fraction, ...]
    first: av.VideoFrame | None = None
    frame_s: Fraction = _ROUNDING_S

    @property
    def length(self) -> Fraction:
        """Seconds from the first picture to the end of the last, shown for as long as the mean."""
        first, last = self.times[0], self.times[-1]
        return last - first + ((last - first) / max(1, len(self.times) - 1) or self.frame_s)

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


def decode_frames(
    container: InputContainer, stream: VideoStream, name: str, damage: Damage | None = None
) -> Iterator[av.VideoFrame]:
    """Yield all frames from the current position on, ordered by time.

    Raises:
      VideoError: without `damage`: a packet is truncated, a frame is damaged, or the file ends
        before the stated end.
      FFmpegError: without `damage`: the decoder detects it.
    """
    margins = margins_of(container, stream)
    for packet in _packets(container, stream, name, damage):
        for frame in _decoded(stream, packet, damage):
            # Concealed, or predicted from a missing picture: the decoder does not raise for all
            # of these.
            if frame.is_corrupt and damage is None:
                raise damaged(name, "a frame is damaged")
            yield cropped(frame, margins)


def decode_frames_at(
    container: InputContainer,
    stream: VideoStream,
    times: Sequence[Fraction],
    index: PacketTimes,
    damage: Damage | None = None,
) -> Iterator[av.VideoFrame]:
    """Yield the frames at `times` (ascending), skipping groups of pictures without one.

    Before a frame, only those that others may refer to are decoded, where the codec marks them. A
    frame that does not decode is replaced by the next one, or left out if that is there already.
    """
    position: Fraction | None = None
    wanted, margins = frozenset(times), margins_of(container, stream)
    decoded: Iterator[av.VideoFrame] = iter(())
    for time in times:
        if position is not None and position >= time:
            continue
        number = max(0, bisect_right(index.key_times, time) - 1)
        before = index.times[bisect_left(index.times, time) - 1]
        is_next = position is not None and before <= position  # then nothing can be skipped
        if position is None or (index.key_times[number] > position and not is_next):
            keys = index.key_times[: number + 1]
            decoded = _decode_to(container, stream, time, keys, wanted, damage)
        for frame in decoded:
            position = presentation_time(frame)
            if position is not None and position >= time:
                yield cropped(frame, margins)
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
        if not packet.size:
            continue
        time = None if packet.pts is None else packet.pts * _time_base(stream)
        if time is not None and packet.is_keyframe:
            keys.append(time)
        if packet.is_discard or _is_hidden(packet, codec):
            continue
        shown.append(time)
    times = sorted(time for time in shown if time is not None)
    frame_s = 1 / frame_rate(stream)
    if len(times) < len(shown):
        given = tuple(index * frame_s for index in range(len(shown)))
        return PacketTimes(len(shown), given, (), first, frame_s)
    seekable = tuple(sorted(keys)) if is_indexed(container) else ()
    return PacketTimes(len(shown), tuple(times), seekable, first, frame_s)


def _packets(
    container: InputContainer, stream: VideoStream, name: str, damage: Damage | None
) -> "Iterator[Packet[VideoStream]]":
    """Yield all packets, the last one empty (it flushes the decoder); raise if truncated."""
    end, last, count = Fraction(0), 0, 0
    is_still = is_still_image(container)
    # FFmpeg paints over the last rows of a JPEG that lacks less than a few dozen bytes. Pictures
    # in a video are not checked: some cameras omit the end marker there.
    is_jpeg = is_still and stream.codec_context.name == "mjpeg"
    for packet in continued(container, _demuxed(container, stream, damage)):
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
                raise_or_count(damaged(name, "it is truncated (no JPEG end marker)"), damage)
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * _time_base(stream))
        yield packet
    # In AVI, frames that repeat another one count, but have no packet: the clock counts them.
    if problem := _early_end(container, stream, end, max(count, last + last // max(1, count - 1))):
        raise_or_count(damaged(name, f"it is truncated ({problem})"), damage)


def continued(
    container: InputContainer, packets: "Iterator[Packet[Any]]"
) -> "Iterator[Packet[Any]]":
    """Yield packets with times that continue where the clock of their stream starts again.

    It does where files were joined. FFmpeg's `ffmpeg` does so, too, for formats that can be joined
    by joining the bytes of files; see its option `-dts_delta_threshold`.

    Args:
      container: where the packets are from.
      packets: of any of its streams.
    """
    if container.format.name not in _RESTARTING:
        yield from packets
        return
    ends: dict[int, int] = {}  # by stream
    added: dict[int, int] = {}
    for packet in packets:
        if packet.dts is not None:
            index, base = packet.stream.index, packet.time_base or Fraction(1)
            dts, end = packet.dts + added.get(index, 0), ends.get(index)
            if end is not None and (end - dts) * base > _RESTART_S:
                added[index] = end - packet.dts
                dts = end
            after = dts + (packet.duration or 1)
            ends[index] = after if end is None else max(end, after)
            if shift := added.get(index):
                packet.dts = dts
                packet.pts = None if packet.pts is None else packet.pts + shift
        yield packet


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
    wanted: frozenset[Fraction],
    damage: Damage | None,
) -> Iterator[av.VideoFrame]:
    """Yield frames from the last key picture on after which the one at `time` decodes."""
    for key in reversed(keys):
        container.seek(round(key / _time_base(stream)), stream=stream)
        decoded = _decode_from_key(container, stream, key, wanted, damage)
        first = next(decoded, None)
        # With periodic intra refresh, a key picture only starts a refresh, and the decoder shows
        # nothing until it is complete.
        is_late = first is None or (presentation_time(first) or time) > time
        if first is not None and (not is_late or key == keys[0]):
            yield first
            yield from decoded
            return


def _decode_from_key(
    container: InputContainer,
    stream: VideoStream,
    key: Fraction,
    wanted: frozenset[Fraction],
    damage: Damage | None,
) -> Iterator[av.VideoFrame]:
    decoder = stream.codec_context
    for packet in _demuxed(container, stream, damage):
        time = None if packet.pts is None else packet.pts * _time_base(stream)
        if decoder.name in _MARKED:
            # Half of the pictures of x264's presets; with one thread, this holds for one packet.
            is_wanted = time is None or time in wanted
            decoder.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        # Pictures shown before the key picture refer to a group that was skipped.
        if time is not None and time < key:
            yield from _decoded(stream, packet, Damage())
        else:
            yield from _decoded(stream, packet, damage)


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


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, av.time_base)
