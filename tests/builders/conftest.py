"""The tiny miniature and its dataset, shared by the tests of the builder."""

import numpy as np
import pytest
from PIL import Image
from videoset_builds import SETTINGS, build

from beam_pipelines.miniature.footage import Footage
from beam_pipelines.miniature.pipeline import make_miniature
from beam_pipelines.runner import local_options


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """Six clips of three photographs: two clips a group."""
    root = tmp_path_factory.mktemp("miniature")
    footage = []
    rows, columns = np.mgrid[:130, :160]
    for index in range(3):
        waves = 120 + 60 * np.sin(columns / (8 + index)) * np.cos(rows / 11)
        noise = np.random.default_rng(index).normal(0, 3, (130, 160, 3))
        path = root / f"photo{index}.png"
        Image.fromarray(np.clip(waves[..., None] + noise, 0, 255).astype(np.uint8)).save(path)
        footage.append(Footage(path.stem, path, is_video=False))
    make_miniature(footage, SETTINGS, root / "mini", local_options(1))
    return root / "mini"


@pytest.fixture(scope="module")
def dataset(miniature, tmp_path_factory):
    return build(miniature, tmp_path_factory.mktemp("data"))
