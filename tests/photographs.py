"""Tiny photographs made in code, as footage for synthetic datasets."""

import numpy as np
from PIL import Image

from beam_pipelines.synthetic.footage import Footage


def photographs(folder, count=3, *, height=130, width=160):
    """Write smooth waves with a little texture, a different one per photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:height, :width]
    found = []
    for index in range(count):
        rng = np.random.default_rng(index)
        waves = 120 + 60 * np.sin(columns / (8 + index)) * np.cos(rows / 11)
        pixels = waves[..., None] + rng.normal(0, 3, (height, width, 3))
        path = folder / f"photo{index}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        found.append(Footage(path.stem, path, is_video=False))
    return tuple(found)
