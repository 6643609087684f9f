"""Predicting with an exported model needs few packages, and no other."""

import json
import re
import subprocess
import sys

import av
import numpy as np
import pytest
from onnx_graphs import write_light_inputs

pytestmark = pytest.mark.slow

# What the framework is made of, and a person who only predicts does not need.
HEAVY = {
    "apache_beam", "keras", "matplotlib", "onnx", "pandas", "pyarrow", "ray", "scipy", "skimage",
    "sklearn", "tensorflow", "tensorflow_datasets",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a clip of one gray, and a model whose levels are the mean color."""
    folder = tmp_path_factory.mktemp("light")
    write_light_inputs(folder)
    return folder


def test_an_exported_model_predicts_without_the_framework(folder):
    command = [sys.executable, "-X", "importtime", "-m", "laser_dist.commands.main"]
    words = ["predict", "clip.mp4", "--model", "m.onnx", "--format", "json"]
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["levels"] == pytest.approx({"jnd1": 30, "jnd2": 30, "jnd3": 30}, abs=1.5)
    assert found["runtime"].startswith("ONNX Runtime")
    assert found["simulated"] is True
    imported = set(re.findall(r"^import time:.*\| +([A-Za-z_]\w*)", done.stderr, re.MULTILINE))
    assert {"numpy", "av", "onnxruntime"} <= imported
    assert HEAVY & imported == set()


def test_a_plan_needs_no_more(folder):
    command = [sys.executable, "-X", "importtime", "-m", "laser_dist.commands.main"]
    words = ["plan", "clip.mp4", "--model", "m.onnx", "--for", "libx264"]
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("-c:v libx264 ")
    imported = set(re.findall(r"^import time:.*\| +([A-Za-z_]\w*)", done.stderr, re.MULTILINE))
    assert HEAVY & imported == set()


def test_the_table_names_what_computed_it(folder):
    words = ["-m", "laser_dist.commands.main", "predict", "clip.mp4", "--model", "m.onnx"]
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Computed by ONNX Runtime 1\.\d+", done.stdout)
    assert "SIMULATED" in done.stdout


def test_a_ladder_needs_no_more(folder):
    command = [sys.executable, "-X", "importtime", "-m", "laser_dist.commands.main"]
    with av.open(folder / "large.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        gray = av.VideoFrame.from_ndarray(np.full((64, 128, 3), 30, np.uint8), "rgb24")
        for frame in [gray] * 5:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    words = ["ladder", "large.mp4", "--model", "m.onnx", "--output", "stream"]
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"^import time:.*\| +([A-Za-z_]\w*)", done.stderr, re.MULTILINE))
    assert HEAVY & imported == set()
