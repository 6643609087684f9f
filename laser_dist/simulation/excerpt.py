"""Short excerpts of a user's video: real motion, cropped in time and space.

Memory does not grow with the length of the video: frames outside the excerpt are dropped as they
are decoded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from laser_dist.video.codec import frame_size
from laser_dist.video.containers import (
    VideoError,
    check_num_frames,
    open_video,
)
from laser_dist.video.frames import Clip, UInt8Array, resize_rgb, upright_clip
from laser_dist.video.packets import (
    decode_frames,
    decode_frames_at,
    scan_packets,
)


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A part of a video.

    Attributes:
      first_frame: index of the first frame.
      left: left edge of the window, in pixels of the video.
      top: top edge of the window.
      window_width: in pixels.
      window_height: in pixels.
    """

    first_frame: int
    left: int
    top: int
    window_width: int
    window_height: int


def draw_excerpt(rng: np.random.Generator, path: Path, aspect: float, num_frames: int) -> Excerpt:
    """Draw a random excerpt of a video.

    Args:
      rng: random generator.
      path: path of the video.
      aspect: width over height of the clip.
      num_frames: frames of the clip.

    Returns:
      An excerpt within the video.

    Raises:
      VideoError: the file is not a video, is truncated, or has fewer than `num_frames` frames.
    """
    video_width, video_height, length = video_extent(path)
    if length < num_frames:
        raise VideoError(
            f"{path} has {length} frames; a clip needs {num_frames}.", hint="Remove the file."
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
    """Read the frames of an excerpt, resized.

    Args:
      path: path of the video.
      excerpt: the part to read.
      num_frames: T.
      width: width of the returned frames, in pixels.
      height: height of the returned frames, in pixels.

    Returns:
      [T, height, width, 3] uint8 RGB.

    Raises:
      VideoError: the file is not a video, is damaged, ends before the excerpt, or has a frame
        smaller than the window.
    """
    windows = [
        resize_rgb(_crop(frame, excerpt, path), width=width, height=height)
        for frame in _frames(path, excerpt.first_frame, num_frames)
    ]
    check_num_frames(str(path), len(windows), num_frames)
    return np.stack(windows)


def video_extent(path: Path) -> tuple[int, int, int]:
    """Return (width, height, number of frames) of a video, read to its end.

    Raises:
      VideoError: the file is not a video, or is truncated.
    """
    return _extent(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=256)  # many excerpts come from one video, and its length takes a full read
def _extent(path: Path, modified_ns: int) -> tuple[int, int, int]:
    """Count the frames, because headers may be wrong or missing."""
    del modified_ns  # only part of the cache key
    size = frame_size(path)
    name = str(path)
    with open_video(path, name) as (container, stream):
        return *size, scan_packets(container, stream, name).num_frames


def _frames(path: Path, first_frame: int, num_frames: int) -> Iterator[Clip]:
    """Yield the excerpt's frames, seeking to the first one if seeking is exact."""
    name = str(path)
    with open_video(path, name) as (container, stream):
        packets = scan_packets(container, stream, name)
    with open_video(path, name) as (container, stream):
        if packets.key_times:
            times = packets.times[first_frame : first_frame + num_frames]
            frames = decode_frames_at(container, stream, times, packets)
        else:
            frames = decode_frames(container, stream, name)
            frames = islice(frames, first_frame, first_frame + num_frames)
        for frame in frames:
            yield upright_clip(frame, codec=stream.codec_context.name)


def _crop(clip: Clip, excerpt: Excerpt, path: Path) -> UInt8Array:
    bottom = excerpt.top + excerpt.window_height
    right = excerpt.left + excerpt.window_width
    if bottom > clip.height or right > clip.width:
        raise VideoError(
            f"{path} has a frame of {clip.width}x{clip.height} pixels; its excerpt needs"
            f" {right}x{bottom}.",
            hint="Remove the file.",
        )
    return clip.rgb(0)[excerpt.top : bottom, excerpt.left : right]
