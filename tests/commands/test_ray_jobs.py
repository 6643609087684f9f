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
from pathlib import Path

import psutil
import pytest
from listening import SECONDS_BETWEEN_LOOKS, is_loopback, listening
from ray_head import RAY, plain_environment, ray_head

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "backbone.filters=4", "backbone.latent_filters=6", "backbone.height=32", "backbone.width=48",
    "head.filters=4,4", "image.crop=32", "jnd.crop=32", "image.epochs=2", "jnd.epochs=1",
    "heads.epochs=1",
)  # fmt: skip
NUM_EPOCHS = 100  # of the stage that is stopped: a fraction of a second each
FIRST_EPOCH, LAST_EPOCH = (rf"1/3 image +epoch {epoch}/" for epoch in (1, NUM_EPOCHS))

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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Return the folder of a tiny prepared dataset."""
    folder = tmp_path_factory.mktemp("pairs")
    code = f"from training_fakes import TinyPairs; TinyPairs(data_dir={str(folder)!r})"
    path = os.pathsep.join(map(str, [ROOT / "tests" / "training", ROOT / "tests", ROOT]))
    subprocess.run(
        [sys.executable, "-c", f"{code}.download_and_prepare()"],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
    )
    return folder


def train(dataset, run, *settings, workers="1"):
    assignments = [part for each in (*SETTINGS, *settings) for part in ("--set", each)]
    return [
        "laser-jnd", "train", "lat", "--levels", "1", "--preset", "tiny", "--workers", workers,
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


def ports_of_workers(head):
    """Return the ports that the workers of a head's jobs open to the network."""
    token = head.environment["RAY_AUTH_TOKEN_PATH"]
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended
            is_worker = "TrainWorker" in " ".join(process.cmdline())
            if is_worker and process.environ().get("RAY_AUTH_TOKEN_PATH") == token:
                found |= {each for each in listening(process.pid) if not is_loopback(each[0])}
    return {port for _, port in found if port not in PORTS_OF_RAY}


@pytest.mark.attack("Network ports")
def test_a_job_with_a_range_of_workers_trains_and_names_the_ports_it_opens(head, dataset, tmp_path):
    run, code = tmp_path / "run", tmp_path / "code"
    code.mkdir()
    (code / "notes.txt").touch()
    command = train(dataset, run, workers="2:3")  # the head has two cores
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(ray_job, head, "submit", "--working-dir", code, "--", *command)
        opened = set()
        while not job.done():
            opened |= ports_of_workers(head)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    done = job.result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lat in 3 stages, 2 to 3 workers" in done.stdout
    assert re.search(r"1/3 image +epoch 2/", done.stdout)
    # TensorFlow's servers, of which the workers warn if all of them are on one machine.
    (ports,) = re.findall(r"its 2 workers listen on all .* on ports (\d+, \d+), and", done.stdout)
    assert {int(port) for port in ports.split(", ")} == opened
    assert "\x1b[" not in done.stdout.partition("lat in 3 stages")[2].partition("Next:")[0]
    assert (run / "models" / "predictor.keras").exists()


def test_a_stopped_job_resumes_when_it_is_submitted_again(head, dataset, tmp_path):
    run = tmp_path / "run"
    command = train(dataset, run, f"image.epochs={NUM_EPOCHS}")
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
    # The event of an epoch is lost if the job stops between its checkpoint and its event.
    assert epochs == sorted(set(epochs))
    assert NUM_EPOCHS - 1 <= len(epochs) <= NUM_EPOCHS
    assert not re.search(FIRST_EPOCH, done.stdout)
    assert re.search(LAST_EPOCH, done.stdout)
    assert (run / "models" / "predictor.keras").exists()


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
