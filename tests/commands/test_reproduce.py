"""All six variants on a tiny synthetic VideoSet, killed and resumed."""

import csv
import json
import os
import re
import signal

import numpy as np
import pytest
from command_line import Started, laser_jnd

from laser_dist.models.variants import VARIANTS

SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=4", "backbone.height=32", "backbone.width=48",
    "head.filters=4", "image.epochs=1", "jnd.epochs=1", "heads.epochs=1", "joint.epochs=1",
    "image.crop=32", "jnd.crop=32",
    # One worker of one device, in turn: building the graphs takes nearly all of the time.
    "cluster.cpu_devices=1", "cluster.cpus_per_worker=2",
)  # fmt: skip
NAMES = [variant.name for variant in VARIANTS]
BASELINES = ["constant", "si-ti-ridge", "si-ti-trees", "one-encode"]

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.beam, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Folder of a reproduction that was killed between two trainings, and resumed."""
    folder = tmp_path_factory.mktemp("reproduction")
    clips = ("synthesize", "--output", "clips", "--num-sources", 15, "--qps", "22,38")
    done = laser_jnd(*clips, cwd=folder)
    assert done.returncode == 0, done.stderr
    command = Started(*words(), cwd=folder)
    command.wait_for((folder / "out" / "mj-lat" / "models" / "predictor.keras").exists, seconds=600)
    for process in command.processes():
        os.kill(process, signal.SIGKILL)
    command.process.communicate(timeout=60)
    assert not (folder / "out" / "results.json").exists()
    done = laser_jnd(*words(), cwd=folder, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("is finished, with the same settings and data") == 1
    return folder / "out"


def words():
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return "reproduce", "--manual-dir", "clips", "--preset", "tiny", "--output", "out", *settings


def rows_of(table):
    lines = [line for line in table.read_text().splitlines() if line.startswith("| ")]
    header, _, *rows = [re.split(r" \| ", line.strip("| ")) for line in lines]
    return header, {row[0]: row[1:] for row in rows}


def test_the_table_has_all_variants_and_the_figures_that_are_known(output):
    header, rows = rows_of(output / "reproduction.md")
    assert len(header) == 6  # the first column has no title
    assert [*rows] == [*NAMES, *BASELINES, "label noise", "published"]
    missing = ["not available"] * 2
    assert rows["published"] == ["1.57", *missing, "0.72 dB", *missing]
    noise = json.loads((output / "results.json").read_text())["label_noise"]
    assert rows["label noise"][:3] == [f"{value:.2f}" for value in noise]


def test_the_errors_are_those_of_the_predictions(output):
    _, rows = rows_of(output / "reproduction.md")
    with (output / "predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    for name in (*NAMES, "constant"):
        for level in (1, 2, 3):
            own = [each for each in predictions if each["jnd_index"] == str(level)]
            errors = [abs(float(each[name]) - float(each["true"])) for each in own]
            psnr_errors = [float(each[f"{name}_abs_psnr_error_db"]) for each in own]
            error, psnr = rows[name][level - 1], rows[name][level + 2]
            assert abs(float(error.partition(" ")[0]) - np.mean(errors)) < 0.006
            assert abs(float(psnr.removesuffix(" dB")) - np.mean(psnr_errors)) < 0.006


def test_the_page_says_how_its_figures_were_made(output):
    text = (output / "reproduction.md").read_text()
    assert "SIMULATED" in text
    assert "split by source" in text
    assert "Preset: tiny" in text


def test_the_heads_start_from_the_backbones_of_one_run(output):
    for name in ("lat", "rec", "mj-rec"):
        for backbone in ("jnd1", "jnd2", "jnd3"):
            files = (output / run / "models" / f"{backbone}.keras" for run in ("mj-lat", name))
            assert len({file.read_bytes() for file in files}) == 1
    assert (output / "e2e-lat" / "models" / "image.keras").exists()
