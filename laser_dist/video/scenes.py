"""The scenes of a clip: where it cuts, found with FFmpeg's filter `scdet`."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from av import VideoFrame
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from laser_dist.machine import num_cores
from laser_dist.video.containers import (
    Damage,
    check_num_frames,
    frame_rate,
    name_of,
    open_video,
    presentation_time,
)
from laser_dist.video.packets import (
    decode_frames,
)

LONGEST_S = 10
"""Longest scene in seconds. A longer one is divided: the labels are of clips of 5 s."""

LABELED_S = 5
"""Length of VideoSet's clips in seconds, each a scene."""

SHORTEST_S = 1
"""Shortest scene in seconds. A cut that follows another sooner, as in a flash, does not count."""

# Change of the mean luma difference between frames, in percent, above which FFmpeg reports a cut;
# the filter's own default.
_THRESHOLD = 10
# Frames are compared at this size: noise is averaged, and the filter takes no time.
_WIDTH, _HEIGHT = 192, 108
_CUT = "lavfi.scd.time"  # what the filter adds to the first frame after a cut


@dataclass(frozen=True)
class Scene:
    """Part of a clip.

    Attributes:
      start: time of its first frame, in seconds from the first frame of the clip.
      end: time of the first frame after it, or the end of the clip.
      first_frame: position of its first frame among the frames of the clip, from 0.
      end_frame: position of the first frame after it.
    """

    start: Fraction
    end: Fraction
    first_frame: int
    end_frame: int


def find_scenes(
    source: bytes | Path,
    *,
    progress: Callable[[float], None] | None = None,
    damage: Damage | None = None,
) -> list[Scene]:
    """Find the scenes of a clip, of `SHORTEST_S` to `LONGEST_S` seconds unless the clip is shorter.

    All frames are decoded, on all cores; memory does not grow with the length of the clip.

    Args:
      source: content or path of a video or an image.
      progress: called with the seconds that are done.
      damage: counts damage that FFmpeg conceals; None makes damage an error.

    Returns:
      At least one scene, in order; each starts where the one before ends.

    Raises:
      VideoError: as `decode`.
    """
    times: list[Fraction] = []
    cuts: list[Fraction] = []
    name = name_of(source)
    with open_video(source, name, damage) as (container, stream):
        stream.codec_context.thread_count = num_cores()
        stream.codec_context.thread_type = "AUTO"
        # Deblocking takes about a tenth of the time of H.264 and HEVC. The scenes of five clips,
        # two of them at QP 46 and 48, were the same without it.
        options = stream.codec_context.options
        stream.codec_context.options = {**options, "skip_loop_filter": "all"}
        rate = frame_rate(stream)
        for index, (frame, is_cut) in enumerate(
            _marked(decode_frames(container, stream, name, damage))
        ):
            time = presentation_time(frame)
            times.append(index / rate if time is None else time)
            if is_cut:
                cuts.append(times[-1] - times[0])
            if progress is not None:
                progress(float(times[-1] - times[0]))
    check_num_frames(name, len(times))
    frame_times = sorted(time - times[0] for time in times)
    end = frame_times[-1] + (frame_times[-1] / max(1, len(times) - 1) or 1 / rate)
    return scenes_between(cuts, frame_times, end)


def scenes_between(
    cuts: Sequence[Fraction], frame_times: Sequence[Fraction], end: Fraction
) -> list[Scene]:
    """Return the scenes between cuts.

    Args:
      cuts: times of the first frames after a cut, ascending, in seconds.
      frame_times: times of all frames, ascending, the first 0.
      end: end of the clip.
    """
    starts = [Fraction(0)]
    for cut in cuts:
        if cut - starts[-1] >= SHORTEST_S and end - cut >= SHORTEST_S:
            starts.append(cut)
    bounds = [*starts, end]
    scenes: list[Scene] = []
    for start, stop in pairwise(bounds):
        num_parts = -(-(stop - start) // LONGEST_S)
        steps = [start + part * (stop - start) / num_parts for part in range(1, num_parts)]
        # Each part starts with a frame; one that no frame starts in belongs to the one before.
        inner = {frame_times[at] for step in steps
                 if (at := bisect_left(frame_times, step)) < len(frame_times)}  # fmt: skip
        for part in pairwise(sorted({start, *inner, stop})):
            first, after = (bisect_left(frame_times, time) for time in part)
            scenes.append(Scene(*part, first, after))
    return scenes


def _marked(frames: Iterable[VideoFrame]) -> Iterator[tuple[VideoFrame, bool]]:
    """Yield each frame, and whether it is the first one after a cut."""
    graph, reformatter = Graph(), VideoReformatter()
    graph.threads = 1
    size = f"video_size={_WIDTH}x{_HEIGHT}:pix_fmt=yuv420p:time_base=1/1:pixel_aspect=1/1"
    entry, sink = graph.add("buffer", size), graph.add("buffersink")
    detector = graph.add("scdet", f"threshold={_THRESHOLD}")
    entry.link_to(detector)
    detector.link_to(sink)
    graph.configure()
    for index, frame in enumerate(frames):
        # Not by a filter, which would not take frames of another size in the middle of a stream.
        small = reformatter.reformat(
            frame,
            width=_WIDTH,
            height=_HEIGHT,
            format="yuv420p",
            interpolation=Interpolation.BILINEAR,
        )
        small.pts, small.time_base = index, Fraction(1)
        entry.push(small)
        marked = sink.pull()
        assert isinstance(marked, VideoFrame)
        yield frame, _CUT in marked.metadata
