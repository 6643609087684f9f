"""The main job at a tiny size, by the commands that a user types: photographs to a prediction."""

import io
import json
import math
import os
import subprocess
import sys
import zipfile

import h5py
import pyarrow.parquet as pq
import pytest
from s3 import local_s3

from laser_dist.commands.locations import find_dataset
from laser_dist.storage.run_files import RunFiles

RUN_SETTINGS = (
    "backbone.filters=4",
    "backbone.latent_filters=6",
    "head.filters=4,4",
    "image.epochs=2",
    "jnd.epochs=1",
    "heads.epochs=2",
)
STAGES = ("image", "jnd1", "jnd2", "jnd3", "mj-lat")
SETTINGS = tuple(part for setting in RUN_SETTINGS for part in ("--set", setting))
TRAIN = ("--preset", "tiny", "--dataset", "data", *SETTINGS)
COMMANDS = (
    ("synthesize", "--output", "videoset", "--num-sources", "15", "--qps", "22,30,38"),
    ("build", "videoset_jnd", "--manual-dir", "videoset", "--data-dir", "data"),
    ("train", "mj-lat", *TRAIN, "--output", "run", "--workers", "2"),
    ("evaluate", "--model", "run", "--dataset", "data"),
)
# Its two heads are trained at the same time, by a worker each, which takes two cores.
SECOND = (
    "train", "rec", *TRAIN, "--output", "second", "--workers", "1", "--levels", "1,3",
    "--init-from", "run",
)  # fmt: skip
LOAD = """
import tensorflow_datasets as tfds
import tfds_builders
data, info = tfds.load("videoset_jnd/synthetic", data_dir="data", split="test", with_info=True)
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
def folder(tmp_path_factory):
    """Where all the commands have run, in their order."""
    where = tmp_path_factory.mktemp("job")
    for command in COMMANDS:
        said = laser_jnd(where, *command)
        (where / f"{command[0]}.txt").write_text(said)
    return where


def laser_jnd(folder, *arguments):
    return python(folder, "-m", "laser_dist.commands.main", *arguments)


def notices(folder, *arguments):
    """Run a command and return what it logs."""
    return python(folder, "-m", "laser_dist.commands.main", *arguments, stream="stderr")


def python(folder, *arguments, stream="stdout"):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return getattr(done, stream)


def test_the_results_are_of_test_sources_with_all_predictors_and_simulated(folder):
    results = json.loads((folder / "run" / "results.json").read_text())
    config = json.loads((folder / "run" / "config.json").read_text())
    assert results["simulated"] is True
    assert results["num_sources"] == len(config["dataset"]["splits"]["test"])
    predictors = {"mj-lat", "constant", "si-ti-ridge", "si-ti-trees"}
    assert set(results["predictors"]) == predictors
    for predictor in results["predictors"].values():
        for error, (low, high) in zip(
            predictor["abs_error"], predictor["abs_error_interval"], strict=True
        ):
            assert 0 <= low <= error <= high < 51
        assert all(0 <= error < 60 for error in predictor["abs_psnr_error_db"])


def test_the_report_needs_nothing_but_itself(folder):
    page = (folder / "run" / "report" / "index.html").read_text()
    assert "simulated" in page.lower()
    assert page.count("data:image/") >= 3 * (1 + 3 + 3)  # three clips: raw, coded, predicted
    for outside in ('src="http', 'href="http', "url(http", "<script src"):
        assert outside not in page


def test_every_stage_learned_and_left_its_model_and_logs(folder):
    run = folder / "run"
    names = ["image", "jnd1", "jnd2", "jnd3", "mj-lat", "predictor"]
    assert sorted(path.stem for path in (run / "models").glob("*.keras")) == names
    for stage in STAGES:
        assert any((run / "checkpoints" / stage).iterdir())
        assert stage in (run / "logs" / "metrics" / f"{stage}.csv").read_text()
    assert any(run.rglob("events.out.tfevents.*"))


def test_the_dataset_loads_by_its_name_from_any_python_session(folder):
    *rows, simulated = python(folder, "-c", LOAD).splitlines()
    assert simulated == "True"
    config = json.loads((folder / "run" / "config.json").read_text())
    assert {row.split()[0] for row in rows} == set(config["dataset"]["splits"]["test"])
    assert {tuple(row.split()[1:4]) for row in rows} == {("144", "256", "3")}


def test_quality_falls_and_rate_falls_with_the_quantizer(folder):
    tables = sorted(folder.glob("data/videoset_jnd/synthetic/*/quality/*.parquet"))
    assert len(tables) == 15
    for path in tables:
        rows = {row["qp"]: row for row in pq.read_table(path).to_pylist()}
        # A level between two coded QPs is coded anew, and measured as well.
        assert [qp for qp, row in rows.items() if row["origin"] == "file"] == [0, 22, 30, 38]
        for finer, coarser in ((22, 30), (30, 38)):
            assert rows[finer]["bitrate_kbps"] > rows[coarser]["bitrate_kbps"]
            assert rows[finer]["psnr_y_db"] > rows[coarser]["psnr_y_db"]


def test_a_clip_is_predicted_and_a_run_goes_on_from_where_it_is(folder):
    clip = next((folder / "videoset").rglob("*_qp_00.264"))
    (told,) = json.loads(laser_jnd(folder, "predict", str(clip), "--model", "run", "--json"))
    assert told["scale"] == "QP"
    assert all(1 <= quantizer <= 51 for quantizer in told["quantizers"].values())
    assert all(math.isfinite(level) for level in told["levels"].values())
    assert told["simulated"] is True
    assert "run is finished, with the same settings" in notices(folder, *COMMANDS[2])


def test_another_variant_reuses_the_backbones_and_trains_its_heads_at_the_same_time(folder):
    text = notices(folder, *SECOND)
    assert "rec in 4 stages, 1 worker" in text  # the image backbone is not needed any more
    for name in ("jnd1", "jnd3"):
        assert f"{name}: reused from --init-from" in text
        first, second = (
            (folder / run / "models" / f"{name}.keras").read_bytes() for run in ("run", "second")
        )
        assert first == second
    events = {path.stem: path for path in (folder / "second" / "logs" / "events").iterdir()}
    if (os.cpu_count() or 1) > 1:
        assert events.keys() == {"rec-jnd1", "rec-jnd3"}
    assert (folder / "second" / "models" / "predictor.keras").exists()
    assert "second is finished" in notices(folder, "train", "--resume", "second")


def test_from_a_bucket_into_a_bucket_the_same_is_trained_evaluated_and_predicted(folder):
    with local_s3() as s3:
        s3.upload(folder / "data", "data")
        places = ("--data-dir", s3.url("data"), "--output", s3.url("runs/third"))
        command = (
            "train", "mj-lat", "--preset", "tiny", "--dataset", "videoset_jnd/synthetic", *places,
            "--workers", "2", *SETTINGS,
        )  # fmt: skip
        assert "mj-lat in 5 stages, 2 workers" in notices(folder, *command)
        assert "is finished, with the same settings" in notices(folder, *command)
        model = ("--model", s3.url("runs/third"))
        told = laser_jnd(folder, "evaluate", *model, *command[4:6], *places[:2])
        assert "s3://bucket/runs/third/report/index.html" in told
        clip = str(next((folder / "videoset").rglob("*_qp_00.264")))
        theirs = laser_jnd(folder, "predict", clip, "--model", "run")
        assert laser_jnd(folder, "predict", clip, *model) == theirs
        fourth = ("train", "rec", *command[2:8], "--output", s3.url("runs/fourth"), *SETTINGS)
        given = ("--init-from", s3.url("runs/third"), "--stages", "jnd1")
        assert "jnd1: reused from --init-from" in notices(folder, *fourth, *given)
        assert "models/jnd1.keras" in s3.files("runs/fourth")
        files = s3.files("runs/third")
        copies = RunFiles(find_dataset("videoset_jnd/synthetic", s3.url("data"))).local
    assert files["predictions.csv"] == (folder / "run" / "predictions.csv").read_bytes()
    assert {"results.json", "report/index.html"} <= files.keys()
    # What is not evaluated on is not brought here.
    assert list(copies.glob("*-test.*-of-*"))
    assert not list(copies.glob("*-train.*-of-*"))
    for name in (*STAGES, "predictor"):
        (folder / "third" / "models").mkdir(parents=True, exist_ok=True)
        path = folder / "third" / "models" / f"{name}.keras"
        path.write_bytes(files[f"models/{name}.keras"])
        assert weights(path) == weights(folder / "run" / "models" / f"{name}.keras")
    assert not [name for name in files if "unfinished" in name]
    assert all(f"logs/metrics/{stage}.csv" in files for stage in STAGES)


def weights(path):
    """A model's arrays by name, as bytes: the file itself has its time of writing."""
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    found = {}
    with h5py.File(content) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found
