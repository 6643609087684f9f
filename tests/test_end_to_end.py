"""The tutorial notebook: the main workflow at a tiny size, from photographs to a prediction."""

import io
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py
import nbformat
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from command_line import laser_jnd_here
from listening import is_loopback, watching_commands
from nbclient import NotebookClient
from s3 import local_s3
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorials" / "demo.ipynb"
STAGES = ("image", "jnd1", "jnd2", "jnd3", "mj-lat")
LOAD = """
import tensorflow_datasets as tfds
import tfds_builders
data, info = tfds.load("videoset_jnd/synthetic", data_dir="runs/data", split="test", with_info=True)
for example in data.as_numpy_iterator():
    print(example["source_id"].decode(), *example["raw"].shape, *example["jnd_levels"])
print(info.metadata["simulated"])
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.beam,
    pytest.mark.ray,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def notebook():
    """The notebook, with its outputs once `folder` is made."""
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(notebook, tmp_path_factory):
    """Folder of the files that the notebook writes, and what its commands listened on."""
    folder = tmp_path_factory.mktemp("notebook")
    resources = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as environment:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment.setenv("PATH", path)
        client = NotebookClient(notebook, timeout=500, kernel_name="python3", resources=resources)
        with watching_commands() as ports:
            client.execute()
    return folder / "runs", ports


@pytest.fixture(scope="module")
def folder(executed):
    """Folder of the files that the notebook writes."""
    return executed[0]


@pytest.fixture(scope="module")
def commands(notebook):
    """Words of the commands in the notebook, by their names."""
    cells = [cell.source for cell in notebook.cells if cell.source.startswith("%%bash")]
    words = [shlex.split(cell.partition("\n")[2].replace("\\\n", " ")) for cell in cells]
    return {each[1]: each[1:] for each in words}


def laser_jnd(folder, *arguments):
    """Run a command; return what it prints and logs."""
    done = python(folder, "-m", "laser_dist.commands.main", *arguments)
    return done.stdout + done.stderr


def python(folder, *arguments):
    """Run Python and check that it succeeds and leaves no temporary file."""
    with tempfile.TemporaryDirectory() as temporary:  # a short path, as Ray needs
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "TMPDIR": temporary},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert os.listdir(temporary) == []
    return done


def test_the_notebook_prints_results_and_shows_frames(notebook, folder):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "simulated viewers: True" in printed
    assert "QPs of JND1, JND2, JND3: [" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.attack("Network ports")
def test_every_port_of_a_command_is_on_the_loopback_interface(executed):
    _, ports = executed
    assert ports.keys() == {"synthesize", "build", "train", "evaluate"}
    assert ports["train"]  # of Ray: the search finds ports
    for command, found in ports.items():
        assert [each for each in found.items() if not is_loopback(each[0][0])] == [], command


def test_results_cover_the_test_sources_and_all_predictors_and_are_simulated(folder):
    results = json.loads((folder / "first" / "results.json").read_text())
    config = json.loads((folder / "first" / "config.json").read_text())
    assert results["simulated"] is True
    assert results["num_sources"] == len(config["dataset"]["splits"]["test"])
    predictors = {"mj-lat", "constant", "si-ti-ridge", "si-ti-trees", "one-encode"}
    assert set(results["predictors"]) == predictors
    for predictor in results["predictors"].values():
        for error, (low, high) in zip(
            predictor["abs_error"], predictor["abs_error_interval"], strict=True
        ):
            assert 0 <= low <= error <= high < 51
        assert all(0 <= error < 60 for error in predictor["abs_psnr_error_db"])


def test_the_report_is_self_contained(folder):
    page = (folder / "first" / "report" / "index.html").read_text()
    assert "simulated" in page.lower()
    assert page.count("data:image/") >= 3 * (1 + 3 + 3)  # three clips: raw, encoded, predicted
    for outside in ('src="http', 'href="http', "url(http", "<script src"):
        assert outside not in page


def test_every_stage_writes_its_model_and_logs(folder):
    run = folder / "first"
    names = ["image", "jnd1", "jnd2", "jnd3", "mj-lat", "predictor"]
    assert sorted(path.stem for path in (run / "models").glob("*.keras")) == names
    for stage in STAGES:
        assert any((run / "checkpoints" / stage).iterdir())
        assert stage in (run / "logs" / "metrics" / f"{stage}.csv").read_text()
    assert any(run.rglob("events.out.tfevents.*"))


def test_a_training_from_python_calls_its_callback_after_each_epoch(notebook, folder):
    lines = [line.split() for line in (folder / "lat" / "epochs.txt").read_text().splitlines()]
    assert [line[:2] for line in lines] == [["lat-jnd1", str(epoch)] for epoch in (1, 2, 3)]
    logged = (folder / "lat" / "logs" / "metrics" / "lat-jnd1.csv").read_text().splitlines()
    losses = [float(row.split(",")[3]) for row in logged if ",val_loss," in row]
    assert [float(line[2]) for line in lines] == pytest.approx(losses, abs=6e-4)
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    error = json.loads((folder / "lat" / "results.json").read_text())["predictors"]["lat"]
    assert f"mean |ΔQP| of JND1: {error['abs_error'][0]:.2f}" in printed


def test_tensorboard_has_the_metrics_and_reconstructions_of_a_backbone(folder):
    logged = EventAccumulator(str(folder / "first" / "logs" / "tensorboard" / "jnd1")).Reload()
    tags = set(logged.Tags()["tensors"])
    assert {"loss", "val_loss", "learning_rate", "gradient_norm", "reconstructions"} <= tags
    (image,) = logged.Tensors("reconstructions")
    width, height, *_ = tf.make_ndarray(image.tensor_proto)
    # Backbones of this preset validate on crops of the frames.
    crop = json.loads((folder / "first" / "config.json").read_text())["training"]["jnd"]["crop"]
    assert (int(width), int(height)) == (2 * crop, crop)
    head = EventAccumulator(str(folder / "first" / "logs" / "tensorboard" / "mj-lat")).Reload()
    assert "reconstructions" not in head.Tags()["tensors"]


def test_ray_tune_finds_the_best_settings(folder, tmp_path):
    """The script of the guide, with the sizes of the notebook's backbones, and short."""
    page = (ROOT / "docs" / "how-to" / "train-from-python.md").read_text()
    script = page.partition('```python title="search.py"\n')[2].partition("```")[0]
    before = '{"cluster.cpu_devices": 1}'
    sizes = (
        '"backbone.filters": 16, "backbone.latent_filters": 32, "head.filters": [8], '
        '"heads.epochs": 2}'
    )
    assert before in script
    path = tmp_path / "search.py"
    path.write_text(script.replace(before, f"{before[:-1]}, {sizes}"))
    output = tmp_path / "search"
    done = python(folder.parent, path, folder / "data", folder / "first", output)
    losses = {}
    for run in output.glob("*/config.json"):
        rate = json.loads(run.read_text())["training"]["heads"]["learning_rate"]
        rows = (run.parent / "logs" / "metrics" / "mj-lat.csv").read_text().splitlines()
        losses[rate] = [float(row.split(",")[3]) for row in rows if ",val_loss," in row][-1]
    assert losses.keys() == {1e-4, 1e-3}
    best = min(losses, key=losses.get)
    assert f"best: {{'heads.learning_rate': {best}}}" in done.stdout


def test_the_dataset_loads_by_name_in_any_python_session(folder):
    *rows, simulated = python(folder.parent, "-c", LOAD).stdout.splitlines()
    assert simulated == "True"
    config = json.loads((folder / "first" / "config.json").read_text())
    assert {row.split()[0] for row in rows} == set(config["dataset"]["splits"]["test"])
    assert {tuple(row.split()[1:4]) for row in rows} == {("144", "256", "3")}


def test_quality_and_bitrate_fall_as_the_quantizer_rises(folder):
    tables = sorted(folder.glob("data/videoset_jnd/synthetic/*/quality/*.parquet"))
    assert len(tables) == 15
    for path in tables:
        rows = {row["qp"]: row for row in pq.read_table(path).to_pylist()}
        # The build also encodes and measures a level between two of these QPs.
        assert [qp for qp, row in rows.items() if row["origin"] == "file"] == [0, 18, 29, 39]
        for finer, coarser in ((18, 29), (29, 39)):
            assert rows[finer]["bitrate_kbps"] > rows[coarser]["bitrate_kbps"]
            assert rows[finer]["psnr_y_db"] > rows[coarser]["psnr_y_db"]


def test_commands_that_are_done_are_not_run_again(folder, commands):
    for name in ("synthesize", "build"):
        assert "Reused" in laser_jnd(folder.parent, *commands[name])
    assert "first is finished, with the same settings and data" in laser_jnd(
        folder.parent, *commands["train"]
    )


def test_a_bucket_serves_as_well_as_a_disk(folder, commands):
    """Two heads are trained on backbones of another run, all in a bucket."""
    clip = str(next((folder / "videoset").rglob("*_qp_00.264")))
    expected = predictions(folder, clip, "first")
    preset, *settings = (word for word in commands["train"] if word == "tiny" or "=" in word)
    with local_s3() as s3:
        s3.upload(folder / "data", "data")
        s3.upload(folder / "first", "runs/first")
        first, second = s3.url("runs/first"), s3.url("runs/second")
        dataset = ("--dataset", "videoset_jnd/synthetic", "--data-dir", s3.url("data"))
        train = ("train", "lat", "--preset", preset, "--workers", "1", "--levels", "1,3")
        settings += ["heads.epochs=1", "cluster.cpu_devices=1", "cluster.cpus_per_worker=2"]
        sizes = [part for setting in settings for part in ("--set", setting)]
        printed = laser_jnd(
            folder, *train, *sizes, *dataset, "--init-from", first, "--output", second
        )
        assert "lat in 4 stages, 1 worker" in printed  # the image backbone is not needed
        assert predictions(folder, clip, first) == expected
        done = laser_jnd_here("evaluate", "--model", first, *dataset, cwd=folder)
        assert "s3://bucket/runs/first/report/index.html" in done.stdout + done.stderr
        results, files = s3.files("runs/first"), s3.files("runs/second")
    assert results["predictions.csv"] == (folder / "first" / "predictions.csv").read_bytes()
    assert "report/index.html" in results
    for name in ("jnd1", "jnd3"):
        reused = (folder / "first" / "models" / f"{name}.keras").read_bytes()
        assert weights(files[f"models/{name}.keras"]) == weights(reused)
    for name in ("lat-jnd1", "lat-jnd3"):
        assert {f"models/{name}.keras", f"logs/metrics/{name}.csv"} <= files.keys()
    assert "models/predictor.keras" in files
    assert not [name for name in files if "unfinished" in name]


def predictions(folder, clip, model):
    """Return the predictions of a clip, which are the same wherever the model is stored."""
    done = laser_jnd_here("predict", clip, "--format", "json", "--model", model, cwd=folder)
    (document,) = json.loads(done.stdout)
    assert document["scale"] == "QP"
    assert all(1 <= quantizer <= 51 for quantizer in document["quantizers"].values())
    assert all(math.isfinite(level) for level in document["levels"].values())
    assert document["simulated"] is True
    return document["levels"], document["quantizers"]


def weights(content):
    """Return a model's arrays by name, as bytes: its file has the time of writing in it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        stored = io.BytesIO(archive.read("model.weights.h5"))
    found = {}
    with h5py.File(stored) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found
