"""Short excerpts of a user's video: real motion, cut in time and space.

Memory does not grow with the video's length: frames outside the excerpt are dropped as they come.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np

from laser_dist.video.codec import probe
from laser_dist.video.containers import VideoError, check_count, frames_at, frames_of, opened, scan
from laser_dist.video.frames import Clip, UInt8Array, resize_rgb, upright_planes


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A part of a video.

    Attributes:
      first_frame: index of the first frame.
      left: of the window, in pixels of the video.
      top: of the window.
      window_width: in pixels.
      window_height: in pixels.
    """

    first_frame: int
    left: int
    top: int
    window_width: int
    window_height: int


def draw_excerpt(rng: np.random.Generator, path: Path, aspect: float, num_frames: int) -> Excerpt:
    """Draws where and when to cut.

    Args:
      rng: source of chance.
      path: of the video.
      aspect: width over height of the clip.
      num_frames: of the clip.

    Returns:
      An excerpt that lies within the video.

    Raises:
      VideoError: the file is no video, is cut short, or has fewer frames than asked for.
    """
    video_width, video_height, length = extent(path)
    if length < num_frames:
        raise VideoError(
            f"Video {path}", f"at least {num_frames} frames", str(length), "Leave it out."
        )
    widest = min(video_width, video_height * aspect)
    width = widest * float(rng.uniform(0.5, 1.0))
    return Excerpt(
        first_frame=int(rng.integers(length - num_frames + 1)),
        left=int(rng.uniform(0, video_width - width)),
        top=int(rng.uniform(0, video_height - width / aspect)),
        window_width=max(int(width), 1),
        window_height=max(int(width / aspect), 1),
    )


def read_excerpt(
    path: Path, excerpt: Excerpt, *, num_frames: int, width: int, height: int
) -> UInt8Array:
    """Frames of an excerpt, resized.

    Args:
      path: of the video.
      excerpt: which part.
      num_frames: T.
      width: of the frames given back, in pixels.
      height: of the frames given back, in pixels.

    Returns:
      [T, height, width, 3] uint8 RGB.

    Raises:
      VideoError: the file is no video, is damaged, ends before the excerpt does or shrinks below
        its window.
    """
    windows = [
        resize_rgb(_window(frame, excerpt, path), width=width, height=height)
        for frame in _frames(path, excerpt.first_frame, num_frames)
    ]
    check_count(str(path), len(windows), num_frames)
    return np.stack(windows)


def _frames(path: Path, first_frame: int, num_frames: int) -> Iterator[av.VideoFrame]:
    """The excerpt's frames; what comes before is skipped, by seeking where that is exact."""
    name = str(path)
    with opened(path) as (container, stream):
        where = scan(container, stream, name)
    with opened(path) as (container, stream):
        if where.times:
            wanted = where.times[first_frame : first_frame + num_frames]
            yield from frames_at(container, stream, wanted, where)
        else:
            frames = frames_of(container, stream, name)
            yield from islice(frames, first_frame, first_frame + num_frames)


def _window(frame: av.VideoFrame, excerpt: Excerpt, path: Path) -> UInt8Array:
    clip = Clip.from_planes([upright_planes(frame)], [Fraction(0)], Fraction(1))
    bottom = excerpt.top + excerpt.window_height
    right = excerpt.left + excerpt.window_width
    if bottom > clip.height or right > clip.width:
        raise VideoError(
            f"Video {path}",
            f"frames of at least {right}x{bottom} to its end",
            f"{clip.width}x{clip.height}",
            "Leave it out.",
        )
    return clip.rgb(0)[excerpt.top : bottom, excerpt.left : right]


def extent(path: Path) -> tuple[int, int, int]:
    """Width, height and number of frames of a video, read to its end.

    Raises:
      VideoError: the file is no video, or is cut short.
    """
    return _extent(path, _modified_ns(path))


def _modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0  # `probe` says what is wrong


@lru_cache(maxsize=256)  # many excerpts are drawn from one video, and its length takes a full read
def _extent(path: Path, modified_ns: int) -> tuple[int, int, int]:
    """(width, height, number of frames) of a video; counted, as headers may be wrong or silent."""
    del modified_ns  # a part of the cache's key alone
    info = probe(path)
    with opened(path) as (container, stream):
        return info.width, info.height, scan(container, stream, str(path)).num_frames
