"""Short excerpts of a user's video: real motion, cut in time and space."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laser_dist.video.codec import VideoError, decode, probe
from laser_dist.video.frames import resize_rgb


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
      VideoError: the file is no video, or has fewer frames than asked for.
    """
    info = probe(path)
    length = info.num_frames or decode(path).num_frames
    if length < num_frames:
        raise VideoError(
            f"Video {path}", f"at least {num_frames} frames", str(length), "Leave it out."
        )
    widest = min(info.width, info.height * aspect)
    width = widest * float(rng.uniform(0.5, 1.0))
    return Excerpt(
        first_frame=int(rng.integers(length - num_frames + 1)),
        left=int(rng.uniform(0, info.width - width)),
        top=int(rng.uniform(0, info.height - width / aspect)),
        window_width=int(width),
        window_height=int(width / aspect),
    )


def read_excerpt(
    path: Path, excerpt: Excerpt, *, num_frames: int, width: int, height: int
) -> np.ndarray:
    """Frames of an excerpt, resized.

    Args:
      path: of the video.
      excerpt: which part.
      num_frames: T.
      width: of the frames given back, in pixels.
      height: of the frames given back, in pixels.

    Returns:
      [T, height, width, 3] uint8 RGB.
    """
    clip = decode(path, max_frames=excerpt.first_frame + num_frames)
    rows = slice(excerpt.top, excerpt.top + excerpt.window_height)
    columns = slice(excerpt.left, excerpt.left + excerpt.window_width)
    indices = range(excerpt.first_frame, excerpt.first_frame + num_frames)
    return np.stack(
        [
            resize_rgb(clip.rgb(index)[rows, columns], width=width, height=height)
            for index in indices
        ]
    )
