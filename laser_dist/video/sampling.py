"""Pick frames of a clip for a prediction: also of a damaged one, and as a viewer sees them."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from laser_dist.video.containers import (
    Damage,
    check_num_frames,
    check_size,
    is_still_image,
    name_of,
    open_video,
    presentation_time,
)
from laser_dist.video.frames import UInt8Array, upright_size
from laser_dist.video.packets import (
    PacketTimes,
    decode_frames,
    decode_frames_at,
    scan_packets,
)
from laser_dist.video.pictures import seen_rgb
from laser_dist.video.scenes import LABELED_S, Scene

# In a raw stream of these codecs, each packet is a picture that is shown.
_COUNTED = ("h264", "hevc")

_Neighbors = tuple[int, av.VideoFrame | None, av.VideoFrame, av.VideoFrame | None]


@dataclass(frozen=True, eq=False)
class SampledFrame:
    """A frame picked from a clip.

    Attributes:
      timestamp_s: seconds from the first frame of the clip.
      rgb: [height, width, 3] uint8, full range.
      interlaced: whether the frame has two fields, of different times.
    """

    timestamp_s: float
    rgb: UInt8Array
    interlaced: bool


def sample_frames(
    source: bytes | Path,
    *,
    num_frames: int,
    width: int,
    height: int,
    damage: Damage | None = None,
) -> list[SampledFrame]:
    """Pick frames evenly over the time of a clip, in memory that does not grow with its length.

    Args:
      source: content or path of a video or an image (which gives one frame).
      num_frames: N, at least 1; a clip with fewer frames gives each of them once.
      width: columns of each pick, which is shown as by `seen_rgb`.
      height: rows of each pick.
      damage: counts damage that FFmpeg conceals; None makes damage an error.

    Returns:
      The frames that are shown at the centers of N equal intervals of time, each once, in order;
      all T frames if there are no more than N. Without times in the file, as in raw H.264, each
      frame counts as shown for the same time. In the place of a frame that does not decode, the
      next one.

    Raises:
      VideoError: the file is missing or not a video, no frame decodes, a frame is smaller than
        16x16, or it is damaged and that is not counted.
    """
    ((_, samples),) = sample_scenes(
        source, None, num_frames=num_frames, width=width, height=height, damage=damage
    )
    return samples


def sample_scenes(
    source: bytes | Path,
    scenes: Sequence[Scene] | None,
    *,
    num_frames: int,
    width: int,
    height: int,
    damage: Damage | None = None,
) -> Iterator[tuple[Scene, list[SampledFrame]]]:
    """Pick frames evenly over the time of each scene of a clip, as `sample_frames` does.

    Scenes shorter than `LABELED_S` have fewer, in proportion to their length, but at least two.

    The file is read twice, first without decoding. In a container that can seek exactly, complete
    groups of pictures without a pick are skipped.

    Args:
      source: content or path of a video or an image.
      scenes: from `find_scenes`; None for the complete clip as one.
      num_frames: N, at least 1: the most for each scene.
      width: columns of each pick.
      height: rows of each pick.
      damage: counts damage that FFmpeg conceals; None makes damage an error.

    Yields:
      Each scene of which a frame decodes, and its picks, at least one, in order.

    Raises:
      VideoError: as `sample_frames`.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    name = name_of(source)
    with open_video(source, name, damage) as (container, stream):
        packets = scan_packets(container, stream, name, damage)
    check_num_frames(name, packets.num_frames)
    clip = _Clip(source, name, packets, width, height)
    if scenes is not None:
        yield from _sampled(clip, scenes, num_frames, damage)
        return
    found = list(_sampled(clip, [_whole(packets)], num_frames, damage))
    expected = min(num_frames, packets.num_frames)
    if damage and not packets.key_times and sum(len(each) for _, each in found) < expected:
        # Each of two fields has a packet, or pictures are lost.
        clip = replace(clip, packets=_decoded_times(clip, damage))
        found = list(_sampled(clip, [_whole(clip.packets)], num_frames, Damage()))
    check_num_frames(name, len(found))
    yield from found


@dataclass(frozen=True, eq=False)
class _Clip:
    source: bytes | Path
    name: str
    packets: PacketTimes
    width: int
    height: int


def _whole(packets: PacketTimes) -> Scene:
    return Scene(Fraction(0), packets.length, 0, packets.num_frames)


def _decoded_times(clip: _Clip, damage: Damage) -> PacketTimes:
    """Return the times of the frames that decode, of which there are fewer than packets."""
    packets = clip.packets
    with open_video(clip.source, clip.name, Damage()) as (container, stream):
        codec, interlaced = stream.codec_context.name, False
        times: list[Fraction] = []
        for frame in decode_frames(container, stream, clip.name, Damage()):
            interlaced = interlaced or frame.interlaced_frame
            time = presentation_time(frame)
            times.append(packets.times[len(times)] if time is None else time)
    check_num_frames(clip.name, len(times))
    if codec in _COUNTED and not interlaced:
        damage.num_lost = max(damage.num_lost, packets.num_frames - len(times))
    return replace(packets, num_frames=len(times), times=tuple(sorted(times)))


def _sampled(
    clip: _Clip, scenes: Sequence[Scene], num_frames: int, damage: Damage | None
) -> Iterator[tuple[Scene, list[SampledFrame]]]:
    shown = [
        clip.packets.shown_at_centers(_count(num_frames, each, scenes), each.start, each.end)
        for each in scenes
    ]
    picks = [(index, number) for number, each in enumerate(shown) for index in each]
    for number, group in groupby(_picked(clip, picks, damage), key=lambda pair: pair[0]):
        samples = [sample for _, sample in group]
        if damage is None:
            check_num_frames(clip.name, len(samples), len(shown[number]))
        yield scenes[number], samples


def _count(num_frames: int, scene: Scene, scenes: Sequence[Scene]) -> int:
    """Return how many frames to pick of a scene; all of them of a clip that is one scene."""
    if len(scenes) == 1:
        return num_frames
    in_proportion = math.ceil(num_frames * (scene.end - scene.start) / LABELED_S)
    return min(num_frames, max(2, in_proportion))


def _picked(
    clip: _Clip, picks: Sequence[tuple[int, int]], damage: Damage | None
) -> Iterator[tuple[int, SampledFrame]]:
    """Yield the number of the scene and the frame of each pick (index, number of the scene)."""
    waiting = list(reversed(picks))
    with open_video(clip.source, clip.name, damage) as (container, stream):
        codec, is_still = stream.codec_context.name, is_still_image(container)
        indices = [index for index, _ in picks]
        numbered = _numbered(container, stream, clip, indices, damage)
        for index, before, frame, after in _with_neighbors(numbered):
            if not waiting or index < waiting[-1][0]:
                continue
            _, scene = waiting.pop()
            while waiting and waiting[-1][0] <= index:
                waiting.pop()  # in its place is this frame
            check_size(clip.name, *upright_size(frame))
            rgb = seen_rgb(
                frame, before=before, after=after, codec=codec, is_still=is_still,
                width=clip.width, height=clip.height,
            )  # fmt: skip
            time = presentation_time(frame)
            time = clip.packets.times[index] if time is None else time
            since_start = float(time - clip.packets.times[0])
            yield scene, SampledFrame(since_start, rgb, frame.interlaced_frame)


def _numbered(
    container: InputContainer,
    stream: VideoStream,
    clip: _Clip,
    picks: Sequence[int],
    damage: Damage | None,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the picks, and their neighbors if the clip is interlaced, with their numbers."""
    packets = clip.packets
    if not packets.key_times:
        yield from enumerate(decode_frames(container, stream, clip.name, damage))
        return
    is_interlaced = packets.first is not None and packets.first.interlaced_frame
    steps = (-1, 0, 1) if is_interlaced else (0,)
    wanted = {pick + step for pick in picks for step in steps} & set(range(packets.num_frames))
    times = [packets.times[index] for index in sorted(wanted)]
    for frame in decode_frames_at(container, stream, times, packets, damage):
        time = presentation_time(frame)
        if time is not None:
            yield bisect_right(packets.times, time) - 1, frame


def _with_neighbors(numbered: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[_Neighbors]:
    """Yield the number of each frame, the frame before it, it, and the frame after it.

    A neighbor is None if it is not decoded.
    """
    before, current = None, next(numbered, None)
    while current is not None:
        after = next(numbered, None)
        index, frame = current
        yield (
            index,
            before[1] if before and before[0] == index - 1 else None,
            frame,
            after[1] if after and after[0] == index + 1 else None,
        )
        before, current = current, after
