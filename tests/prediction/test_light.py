"""Predicting with an exported model needs few packages, and no other."""

import json
import re
import subprocess
import sys

import pytest
from onnx_graphs import write_light_inputs

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
