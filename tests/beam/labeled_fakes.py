"""One tiny labeled source on a disk, without a dataset around it."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from video_clips import clip_of

from beam_pipelines.elements import JndLevel, LabeledSource, PairSettings
from laser_dist.jnd.scale import QP
from laser_dist.storage import list_files
from laser_dist.video.codec import encode_h264
from laser_dist.video.frames import Clip

WIDTH, HEIGHT, FPS = 64, 48, Fraction(30000, 1001)
SETTINGS = PairSettings(model_width=32, model_height=32, frames_per_second=None)
QPS = (20, 28, 36)


def waves(num_frames=3, *, seed=0):
    """Return a clip of smooth moving waves with a little texture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    texture = rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    frames = [
        127 + 60 * np.sin((columns + 2 * index) / 7 + rows / 11)[..., None] + texture
        for index in range(num_frames)
    ]
    return Clip.from_rgb(np.clip(np.stack(frames), 0, 255).astype(np.uint8), FPS)


def plain(width, height, num_frames):
    """Return a clip of gray frames."""
    luma = np.full((num_frames, height, width), 127, np.uint8)
    return clip_of(luma, fps=FPS)


def yuv_bytes(clip):
    """Return the content of a raw 4:2:0 file."""
    planes = zip(clip.y, clip.u, clip.v, strict=True)
    return b"".join(plane.tobytes() for frame in planes for plane in frame)


def stored(path, content):
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return stored_at(path)


def stored_at(path):
    """Return a file as listed."""
    (file,) = (file for file in list_files(Path(path).parent) if file.location == str(path))
    return file


def levels_at(*values):
    first, second, third = (JndLevel(value=float(v), mean=float(v), samples=(v, v)) for v in values)
    return first, second, third


def labeled(folder, streams, *, levels=QPS, source_id="videoSRC001", suffix="264"):
    """Write a source whose files hold the streams, by QP."""
    name = f"{source_id}_{WIDTH}x{HEIGHT}_30"
    return LabeledSource(
        source_id=source_id,
        group_id=source_id,
        scale=QP,
        fps=FPS,
        size=(WIDTH, HEIGHT),
        clips=tuple(
            (qp, stored(folder / name / f"{name}_qp_{qp:02d}.{suffix}", streams[qp]))
            for qp in sorted(streams)
        ),
        levels=levels_at(*levels),
    )


def encoded(clip, qps=(0, *QPS)):
    """Encode a clip at each QP."""
    return {qp: encode_h264(clip, qp=qp) for qp in qps}
