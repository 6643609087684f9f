"""Training runs as jobs on a real Ray head that requires a token, by `ray job submit`."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from listening import SECONDS_BETWEEN_LOOKS, is_loopback, listening
from ray_head import RAY, plain_environment, ray_head

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "tests" / "training"
SEVERAL_DEVICES = TRAINING / "several_devices"  # workers that import from it have two devices
SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=6", "backbone.height=32", "backbone.width=48",
    "head.filters=6,8", "image.crop=32", "jnd.crop=32", "image.epochs=2", "jnd.epochs=1",
    "heads.epochs=1",
)  # fmt: skip
NUM_EPOCHS = 100  # of the stage that is stopped: a fraction of a second each
FIRST_EPOCH, LAST_EPOCH = (rf"1/1 image +epoch {epoch}/" for epoch in (1, NUM_EPOCHS))

OF_RAY = re.compile(r"\x1b\[\d+m\((raylet|\w+ pid=)")  # lines that Ray itself prints
# Batch norms subtract it, so its gradient is rounding error, which Adam turns into steps.
WITHOUT_GRADIENT = re.compile(r"_conv/bias$|_norm/moving_mean$")

# On a cluster Ray's own servers in the workers, which ask for the token, listen on these.
PORTS_OF_RAY = range(10002, 20000)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture(scope="module")
def head():
    with ray_head(num_cpus=2, num_gpus=1) as running:  # there is none: the worker must notice
        yield running


def python(*arguments):
    """Run Python with the helpers of the training tests."""
    path = os.pathsep.join(map(str, [TRAINING, ROOT / "tests", ROOT]))
    script, *others = map(str, arguments)
    subprocess.run(
        [sys.executable, *([script] if script == "-c" else [TRAINING / script]), *others],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Return the folder of a tiny prepared dataset."""
    folder = tmp_path_factory.mktemp("pairs")
    code = f"from training_fakes import TinyPairs; TinyPairs(data_dir={str(folder)!r})"
    python("-c", f"{code}.download_and_prepare()")
    return folder


def train(dataset, run, *settings, workers="1", variant="lat"):
    assignments = [part for each in (*SETTINGS, *settings) for part in ("--set", each)]
    return [
        "laser-jnd", "train", variant, "--levels", "1", "--preset", "tiny", "--workers", workers,
        "--dataset", str(dataset), "--output", str(run), *assignments,
    ]  # fmt: skip


def ray_job(head, *words, environment=None):
    verb, *rest = map(str, words)
    return subprocess.run(
        [RAY, "job", verb, "--address", head.address, *rest],
        env=environment or head.environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def jobs_api(head, path, method="GET"):
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"{head.address}/api/jobs/{path}",
        headers={"Authorization": f"Bearer {token}"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def epochs_trained(run):
    """Return the numbers of the image stage's epochs, in the order in which they were trained."""
    path = run / "logs" / "events" / "image.jsonl"
    text = path.read_text() if path.exists() else ""
    events = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    of_image = (each for each in events if (each["kind"], each.get("stage")) == ("epoch", "image"))
    return [each["epoch"] for each in of_image]


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def workers_of(head):
    """Return the workers of a head's jobs."""
    token, found = head.environment["RAY_AUTH_TOKEN_PATH"], []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended
            is_worker = "TrainWorker" in " ".join(process.cmdline())
            if is_worker and process.environ().get("RAY_AUTH_TOKEN_PATH") == token:
                found.append(process)
    return found


def ports_of(workers):
    """Return the ports that workers open to the network."""
    found = set()
    for process in workers:
        with contextlib.suppress(psutil.Error):
            found |= {each for each in listening(process.pid) if not is_loopback(each[0])}
    return {port for _, port in found if port not in PORTS_OF_RAY}


@dataclass(frozen=True)
class KilledJob:
    """A job, of which a worker was killed, that trained with two workers of two devices each."""

    run: Path
    output: str
    opened: set


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """Return a folder that is sent to the cluster with a job."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "notes.txt").touch()
    return folder


def submit_to_several_devices(head, code, command):
    """Run a command as a job whose workers have two devices each."""
    environment = json.dumps({"env_vars": {"PYTHONPATH": str(SEVERAL_DEVICES)}})
    options = ("--working-dir", code, "--runtime-env-json", environment)
    return ray_job(head, "submit", *options, "--", *command)


@pytest.fixture(scope="module")
def flagship(head, code, dataset, tmp_path_factory):
    """Train with a range of workers, and kill one of them in the third epoch of the image stage."""
    run = tmp_path_factory.mktemp("flagship") / "run"
    settings = (
        "synchronized_batch_norm=true", "image.epochs=20", "heads.epochs=6",
        "checkpoint_every=3 steps",
    )  # fmt: skip
    command = train(dataset, run, *settings, workers="2:3")  # the head has two cores
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(submit_to_several_devices, head, code, command)
        opened, is_killed = set(), False
        while not job.done():
            workers = workers_of(head)
            opened |= ports_of(workers)
            if not is_killed and len(epochs_trained(run)) > 2:
                workers[-1].kill()
                is_killed = True
            time.sleep(SECONDS_BETWEEN_LOOKS)
    done = job.result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_killed
    return KilledJob(run, done.stdout, opened)


@pytest.mark.attack("Network ports")
def test_a_job_with_a_range_of_workers_trains_and_names_the_ports_it_opens(flagship):
    output = flagship.output
    assert "lat in 3 stages, 2 to 3 workers" in output
    assert re.search(r"1/3 image +epoch 20/", output)
    # TensorFlow's servers, of which the workers warn if all of them are on one machine.
    named = re.findall(r"its 2 workers listen on all .* on ports (\d+), (\d+), and", output)
    assert len(named) >= 2  # once before and once after a worker was killed
    assert {int(port) for pair in named for port in pair} == flagship.opened
    ours = output.partition("lat in 3 stages")[2].partition("Next:")[0].splitlines()
    assert [line for line in ours if "\x1b[" in line and not OF_RAY.match(line)] == []


def test_two_workers_of_two_devices_learn_the_weights_of_one_device_although_one_is_killed(
    flagship, dataset, tmp_path
):
    events = (flagship.run / "logs" / "events" / "image.jsonl").read_text().splitlines()
    started = [event for event in map(json.loads, events) if event["kind"] == "stage"]
    assert len(started) > 1
    assert {event["replicas"] for event in started} == {4}
    check_weights_of_one_device(
        flagship.run, tmp_path, {"image": 20}, ("image", "jnd1", "lat-jnd1")
    )


def test_two_workers_of_two_devices_learn_end_to_end_what_one_device_learns(
    head, code, dataset, tmp_path
):
    settings = (
        "synchronized_batch_norm=true", "image.epochs=4", "joint.epochs=10", "joint.batch_size=4",
    )  # fmt: skip
    run = tmp_path / "run"
    command = train(dataset, run, *settings, workers="2", variant="e2e-lat")
    done = submit_to_several_devices(head, code, command)
    assert done.returncode == 0, done.stdout + done.stderr
    (started,) = (
        event
        for line in (run / "logs" / "events" / "image.jsonl").read_text().splitlines()
        if (event := json.loads(line))["kind"] == "stage" and event["stage"] == "e2e-lat-jnd1"
    )
    assert (started["replicas"], started["epochs"] * started["steps"]) == (4, 20)
    models = ("image", "e2e-lat-jnd1", "e2e-lat-jnd1-head")
    check_weights_of_one_device(run, tmp_path, {"image": 4, "joint": 10}, models)


def check_weights_of_one_device(trained, folder, epochs, models):
    """Check that a run's models have the weights that one device learns.

    Differences are compared with how far a variable moves from the first epoch to the last.

    Args:
      trained: folder of the run.
      folder: folder for the runs of one device.
      epochs: epochs of the stages that are trained for only one epoch in the run to compare with.
      models: names of the models.
    """
    from laser_dist.models.predictors import load_saved_model

    folders = [folder / "last", folder / "first"]
    for each in folders:
        config = json.loads((trained / "config.json").read_text())
        for stage, count in epochs.items():
            assert config["training"][stage]["epochs"] == count
            config["training"][stage]["epochs"] = count if each == folders[0] else 1
        each.mkdir()
        (each / "one_device.json").write_text(json.dumps(config))
    python("one_device.py", *folders)
    for model in models:
        one, four, early = (
            {weight.path: weight.numpy() for weight in load_saved_model(path).weights}
            for path in (
                run / "models" / f"{model}.keras" for run in (folders[0], trained, folders[1])
            )
        )
        names = [name for name in one if not WITHOUT_GRADIENT.search(name)]
        moved = {name: np.abs(one[name] - early[name]).max() for name in names}
        for name in names:
            assert np.abs(one[name] - four[name]).max() <= 1e-3 * moved[name] + 1e-6, name
        assert np.mean([each > 1e-3 for each in moved.values()]) > 0.5, model


def test_a_stopped_job_resumes_when_it_is_submitted_again(head, dataset, tmp_path):
    run = tmp_path / "run"
    one_device = ("cluster.cpu_devices=1", "cluster.cpus_per_worker=2")
    command = train(dataset, run, f"image.epochs={NUM_EPOCHS}", *one_device)
    command += ["--stages", "image"]
    first = ray_job(head, "submit", "--no-wait", "--submission-id", "first", "--", *command)
    assert first.returncode == 0, first.stdout + first.stderr
    wait_for(lambda: len(epochs_trained(run)) > 2, seconds=400)
    jobs_api(head, "first/stop", "POST")  # `ray job stop` starts too slowly for this short training
    wait_for(lambda: jobs_api(head, "first")["status"] in {"STOPPED", "SUCCEEDED"}, seconds=150)
    assert jobs_api(head, "first")["status"] == "STOPPED"
    assert epochs_trained(run)[-1] < NUM_EPOCHS

    done = ray_job(head, "submit", "--", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    epochs = epochs_trained(run)
    # A checkpoint is written while the next epoch is trained: the job may stop between the two, so
    # that one epoch has no event, or is trained again.
    assert epochs == sorted(epochs)
    assert NUM_EPOCHS - 1 <= len(set(epochs)) <= NUM_EPOCHS
    assert len(epochs) - len(set(epochs)) <= 1
    assert not re.search(FIRST_EPOCH, done.stdout)
    assert re.search(LAST_EPOCH, done.stdout)
    assert (run / "models" / "image.keras").exists()


def test_doctor_finds_that_a_worker_of_the_cluster_cannot_use_its_gpu(head):
    command = ("laser-jnd", "doctor", "--gpus-per-worker", "1")
    done = ray_job(head, "submit", "--", *command)
    assert done.returncode != 0
    assert re.search(r"resources now +2 CPUs, 1 GPUs", done.stdout)
    assert "error: TensorFlow sees 0 of the 1 GPUs of a worker on" in done.stdout


@pytest.mark.parametrize(
    "token",
    [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}],
    ids=["none", "wrong"],
)
def test_a_job_without_the_token_of_the_head_is_refused(head, token, tmp_path):
    environment = plain_environment() | token | {"HOME": str(tmp_path)}
    command = train(tmp_path / "data", tmp_path / "run")
    done = ray_job(head, "submit", "--", *command, environment=environment)
    assert done.returncode != 0
    assert "AuthenticationError" in done.stderr
    assert "abab" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
