"""Training on GPUs: run with `pytest -m gpu` on a machine with GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from training_fakes import TinyPairs

GPUS = tf.config.list_physical_devices("GPU")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not GPUS, reason="TensorFlow sees no GPU on this machine"),
]
SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=6", "backbone.height=32", "backbone.width=48",
    "head.filters=4,4", "image.crop=32", "jnd.crop=32", "image.epochs=2", "jnd.epochs=1",
    "heads.epochs=2", "joint.epochs=2",
)  # fmt: skip


@pytest.mark.parametrize("variant", ["mj-lat", "e2e-lat"])
@pytest.mark.parametrize("gpus", sorted({1, len(GPUS)} - {0}) or [1])
def test_a_variant_trains_on_all_gpus_of_a_worker(tmp_path, variant, gpus):
    data = tmp_path / "data"
    TinyPairs(data_dir=data).download_and_prepare()
    settings = [f"--set={each}" for each in SETTINGS]
    done = subprocess.run(
        [
            sys.executable, "-m", "laser_dist.commands.main", "train", variant, "--preset", "tiny",
            "--dataset", str(data), "--output", str(tmp_path / "run"), "--workers", "1",
            "--gpus-per-worker", str(gpus), *settings,
        ],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "models" / "predictor.keras").exists()
    events = [
        json.loads(line)
        for path in (tmp_path / "run" / "logs" / "events").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    # With one GPU this proves nothing: a training that falls back to the CPU has one replica too.
    assert {event["replicas"] for event in events if event["kind"] == "stage"} == {gpus}
    losses = [event["metrics"]["loss"] for event in events if event["kind"] == "epoch"]
    assert losses
    assert np.isfinite(losses).all()
