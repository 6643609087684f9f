"""A training whose dataset and run are in a store that fails one request in ten."""

import io
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
from runs_of_stages import run_all
from s3 import local_s3
from training_fakes import HEIGHT, WIDTH, ObservedLog, context

from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.storage import retries
from laser_dist.storage.run_files import RunFiles
from laser_dist.training.config import CheckpointInterval, StageConfig, TrainingConfig
from laser_dist.training.learning.callbacks import CsvLogger

pytestmark = [pytest.mark.slow, pytest.mark.attack("Failing storage")]

STAGE = StageConfig(epochs=1, batch_size=4, learning_rate=1e-3)
CONFIG = TrainingConfig(
    variant="lat",
    levels=(1,),
    backbone=BackboneSpec(filters=4, latent_filters=4, height=HEIGHT, width=WIDTH),
    head=HeadSpec(filters=(4,), dense=(), pooling="average"),
    image=replace(STAGE, crop=16),
    jnd=replace(STAGE, crop=16),
    heads=replace(STAGE, flips=True),
    joint=STAGE,
)
TIMES = ("seconds", "training_seconds", "samples_per_second", "input_wait", "checkpoint", "compute")


def train(dataset, location):
    store = RunFiles(location)
    where = replace(
        context(store.local),
        store=store,
        log=ObservedLog(store, lambda _: None),
        callbacks=(CsvLogger(store),),
    )
    every_step = CheckpointInterval(steps=1, epochs=1)
    run_all(CONFIG, dataset, replace(where, checkpoint_interval=every_step))


def contents(files):
    """Return what a run has learned: arrays of checkpoints and models, and metrics but times."""
    found = {}
    for name, content in files.items():
        if name.endswith(".npz"):
            with np.load(io.BytesIO(content)) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays if key != "about"}
        elif name.endswith(".keras"):  # with the time of writing in it
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                weights = io.BytesIO(archive.read("model.weights.h5"))
            found[name] = {}
            with h5py.File(weights) as file:
                file.visititems(
                    lambda key, item, of=found[name]: (
                        of.update({key: item[()].tobytes()})
                        if isinstance(item, h5py.Dataset)
                        else None
                    )
                )
        elif name.startswith("logs/metrics/"):
            lines = content.decode().splitlines()
            found[name] = [line for line in lines if line.split(",")[2] not in TIMES]
    return found


@pytest.mark.usefixtures("_without_graphs")
def test_it_learns_the_same_bytes_as_on_a_disk(dataset_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES_S", (0.01,) * len(retries.PAUSES_S))
    train(dataset_dir, str(tmp_path / "run"))
    with local_s3(fail_every=10) as flaky:
        flaky.upload(dataset_dir, "data")
        train(flaky.url("data"), flaky.url("run"))
        actual = contents(flaky.files("run"))
        assert len(flaky.faults) > 10
    expected = contents(
        {
            path.relative_to(tmp_path / "run").as_posix(): path.read_bytes()
            for path in (tmp_path / "run").rglob("*")
            if path.is_file()
        }
    )
    assert {name.partition("/")[0] for name in expected} == {"checkpoints", "models", "logs"}
    assert actual == expected
