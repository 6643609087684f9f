import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import Started, marked_processes

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import signals

STOPPED = ("synthesize", "build")

# `laser-jnd train` with a training that starts Ray and a worker that sleeps.
ENDLESS_TRAINING = """
import pathlib, sys, time
from laser_dist import api
from laser_dist.commands import main, train
from laser_dist.training import ray_entry

def endless(jobs):
    import ray

    ray.init(
        num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )

    @ray.remote
    def work(path):
        pathlib.Path(path).touch()
        time.sleep(600)

    ray.get(work.remote(str(pathlib.Path("working").absolute())))

ray_entry.train = endless
api.start_run = lambda run_dir, training, *_: {
    "run_dir": "run", "variant": "mj-lat", "training": training, "dataset": {"fingerprint": "f"}
}
api.find_dataset = train.find_dataset = lambda path, *_: path
arguments = ["train", "mj-lat", "--preset", "tiny", "--dataset", "x", "--output", "run"]
sys.exit(main.run(arguments))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.mark.ray
def test_a_stopped_training_leaves_no_process_of_ray(tmp_path):
    mark = f"LASER_JND_TEST_RAY_{os.getpid()}"
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS_TRAINING],
        cwd=tmp_path,
        env={**os.environ, mark: "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        deadline = time.monotonic() + 400
        while not (tmp_path / "working").exists():
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(marked_processes(mark)) > 3
        command.send_signal(signal.SIGTERM)
        _, errors = command.communicate(timeout=30)
    assert command.returncode == 143
    assert errors.endswith("stopped\n")
    assert marked_processes(mark) == set()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return a folder, and the duration and the files of each command that ran below it."""
    base = tmp_path_factory.mktemp("undisturbed")
    (base / "inputs").mkdir()
    found = {}
    for name in STOPPED:
        found[name] = signals.undisturbed(name, base / name, base / "inputs")
        for made in (base / name / "work").iterdir():
            if not (base / "inputs" / made.name).exists():
                shutil.copytree(made, base / "inputs" / made.name)
    return base, found


@pytest.mark.beam
@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("name", STOPPED)
def test_a_command_that_is_stopped_leaves_nothing_and_completes_afterwards(
    undisturbed, tmp_path, name, number
):
    folder, found = undisturbed
    seconds, files = found[name]
    rng = np.random.default_rng([STOPPED.index(name), number])
    outcome = None
    while outcome is None:  # it had ended before the moment
        moment = rng.uniform(0, seconds)
        arguments = (name, tmp_path / name, folder / "inputs", files, moment, number)
        outcome = signals.stopped(*arguments)
    assert outcome.problem == ""


def codec_processes(command):
    return [
        number
        for number in command.processes()
        if b"laser_dist.isolation" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]


@pytest.mark.beam
def test_a_codec_process_that_linux_kills_changes_nothing(undisturbed, tmp_path):
    folder, found = undisturbed
    work = signals.fresh(tmp_path / "build", folder / "inputs", signals.COMMANDS["build"])
    command = Started(*signals.COMMANDS["build"].arguments, "--workers", 2, cwd=work)
    command.wait_for(lambda: codec_processes(command), seconds=100)
    os.kill(codec_processes(command)[0], signal.SIGKILL)  # as for lack of memory
    _, errors = command.process.communicate(timeout=100)
    assert command.process.returncode == 0, errors
    assert "the codec process was killed by SIGKILL; trying again" in errors
    assert signals.contents(work) == found["build"][1]
