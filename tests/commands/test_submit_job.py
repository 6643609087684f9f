"""Trainings as jobs on a real Ray head that asks for a token, by Ray's command and by ours."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import LASER_JND, Started
from own_ray import RAY, own_ray, plain_environment

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=6", "backbone.height=32", "backbone.width=48",
    "head.filters=4,4", "image.crop=32", "jnd.crop=32", "image.epochs=2", "jnd.epochs=1",
    "heads.epochs=1",
)  # fmt: skip
EPOCHS = 300  # of the backbone that is stopped meanwhile: a fraction of a second each
LOG_DELAY_S = 3  # Ray's head looks for new lines of a log once a second
LINE = r"1/3 image +epoch {}/"  # of an epoch, as a job tells it

pytestmark = [
    pytest.mark.ray,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture(scope="module")
def ray():
    with own_ray(num_cpus=2) as running:
        yield running


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A tiny prepared dataset."""
    folder = tmp_path_factory.mktemp("pairs")
    code = f"from training_fakes import TinyPairs; TinyPairs(data_dir={str(folder)!r})"
    path = os.pathsep.join([str(ROOT / "tests" / "training"), str(ROOT)])
    subprocess.run(
        [sys.executable, "-c", f"{code}.download_and_prepare()"],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
    )
    return folder


def training(dataset, run, *settings, workers="1"):
    named = [part for each in (*SETTINGS, *settings) for part in ("--set", each)]
    return [
        "train", "lat", "--level", "1", "--preset", "tiny", "--workers", workers,
        "--dataset", str(dataset), "--output", str(run), *named,
    ]  # fmt: skip


def call(*words, environment, seconds=200):
    return subprocess.run(
        [str(word) for word in words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def submit(ray, *words, **changes):
    environment = {**ray.environment, **changes}
    return call(*LASER_JND, "submit", "--address", ray.address, *words, environment=environment)


def epochs_trained(run):
    """Numbers of the image backbone's epochs, in the order in which they were trained."""
    path = run / "logs" / "events" / "image.jsonl"
    text = path.read_text() if path.exists() else ""
    events = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    of_image = (each for each in events if (each["kind"], each.get("stage")) == ("epoch", "image"))
    return [each["epoch"] for each in of_image]


def test_rays_own_command_runs_a_training_to_its_end(ray, dataset, tmp_path):
    run, code = tmp_path / "run", tmp_path / "code"
    code.mkdir()
    (code / "notes.txt").touch()
    done = call(
        RAY, "job", "submit", "--address", ray.address, "--working-dir", code, "--",
        "laser-jnd", *training(dataset, run), environment=ray.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(LINE.format(2), done.stdout)
    assert "lat in 3 stages, 1 worker" in done.stdout
    assert "\x1b[" not in done.stdout.partition("lat in 3 stages")[2].partition("Next:")[0]
    assert (run / "models" / "predictor.keras").exists()


def test_of_a_range_of_workers_it_begins_with_those_that_there_is_room_for(ray, dataset, tmp_path):
    # Before any job is stopped: what a stopped one has asked for Ray holds for three minutes.
    done = submit(ray, *training(dataset, tmp_path / "run", workers="2:3"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lat in 3 stages, 2 to 3 workers" in done.stdout
    assert "2 workers: as many as there is room for now" in done.stdout  # the head has two cores
    assert (tmp_path / "run" / "models" / "predictor.keras").exists()


def test_a_stopped_training_goes_on_when_it_is_submitted_again(ray, dataset, tmp_path, monkeypatch):
    run = tmp_path / "run"
    command = training(dataset, run, f"image.epochs={EPOCHS}")
    for name, value in ray.environment.items():
        monkeypatch.setenv(name, value)
    first = Started("submit", "--address", ray.address, "--name", "first", *command, cwd=tmp_path)
    first.wait_for(lambda: len(epochs_trained(run)) > 2, seconds=150)
    time.sleep(LOG_DELAY_S)
    said, told = first.stop(signal.SIGINT)
    assert first.process.returncode == 130
    assert re.search(LINE.format(1), said), said
    assert told == (
        "laser-jnd: job first goes on, no longer followed. "
        f"Stop it: ray job stop first --address {ray.address}\n"
    )
    before = len(epochs_trained(run))
    wait_for(lambda: len(epochs_trained(run)) > before)

    began = time.monotonic()
    stopped = call(
        RAY, "job", "stop", "first", "--address", ray.address, environment=ray.environment
    )
    assert "was stopped" in stopped.stdout + stopped.stderr
    assert time.monotonic() - began < 60  # most of which is Ray's command beginning
    assert epochs_trained(run)[-1] < EPOCHS

    done = submit(ray, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    epochs = epochs_trained(run)
    # One that was stopped between its checkpoint and its event is not told; none is trained twice.
    assert epochs == sorted(set(epochs))
    assert EPOCHS - 1 <= len(epochs) <= EPOCHS
    assert not re.search(LINE.format(1), done.stdout)
    assert re.search(LINE.format(EPOCHS), done.stdout)
    assert (run / "models" / "predictor.keras").exists()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_job_that_fails_gives_its_exit_status_and_its_line(ray, tmp_path):
    missing = tmp_path / "nothing"
    done = submit(ray, "--name", "failing", *training(missing, tmp_path / "run"))
    assert done.returncode == 2
    line = f"laser-jnd: error: Dataset {missing}: expected a prepared dataset, got no such folder."
    assert done.stdout.count(line) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr == "laser-jnd: job failing failed, exit status 2\n"


def test_a_job_that_is_not_waited_for_is_told_how_to_follow(ray, tmp_path):
    command = training(tmp_path / "nothing", tmp_path / "run")
    done = submit(ray, "--no-wait", "--name", "alone", *command)
    assert (done.returncode, done.stderr) == (0, "")
    follow = f"Follow it: ray job logs alone --address {ray.address} --follow\n"
    assert follow in done.stdout
    again = submit(ray, "--no-wait", "--name", "alone", *command)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "expected one not used on this cluster before, got alone" in again.stderr


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ({}, "RAY_AUTH_MODE is not token"),
        ({"RAY_AUTH_MODE": "token"}, "none in ~/.ray/auth_token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}, "RAY_AUTH_TOKEN, which it"),
    ],
    ids=["not asked", "none", "wrong"],
)
def test_without_its_token_the_head_is_not_reached(ray, token, told, tmp_path):
    environment = plain_environment() | token | {"HOME": str(tmp_path)}
    command = training(tmp_path / "data", tmp_path / "run")
    words = [*LASER_JND, "submit", "--address", ray.address, *command]
    done = call(*words, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "expected its token, got" in done.stderr
    assert told in done.stderr
    assert "abab" not in done.stderr
