"""Tiny footage and settings for the tests of the miniature's pipeline."""

import numpy as np
from PIL import Image

from beam_pipelines.miniature.footage import Footage
from beam_pipelines.miniature.videoset import VideosetSettings

TINY = VideosetSettings(num_sources=4, width=64, height=48, num_frames=3, qps=(22, 28, 34, 40))


def photographs(folder, count=3):
    """Smooth waves with a little texture, of another tone in each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:130, :160]
    found = []
    for index in range(count):
        rng = np.random.default_rng(index)
        waves = 120 + 60 * np.sin(columns / (8 + index)) * np.cos(rows / 11)
        pixels = waves[..., None] + rng.normal(0, 3, (130, 160, 3))
        path = folder / f"photo{index}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        found.append(Footage(path.stem, path, is_video=False))
    return tuple(found)


def contents(folder):
    """Bytes of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
