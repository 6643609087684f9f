import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Started, laser_jnd, marked_processes

# `laser-jnd train` with a training that starts Ray and a worker that sleeps.
ENDLESS_TRAINING = """
import pathlib, sys, time
from laser_dist.commands import main, train
from laser_dist.training import ray_entry, runs

def endless(config, groups, watch):
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
runs.start_run = lambda run_dir, training, _: {
    "variant": "mj-lat", "training": training, "dataset": {"fingerprint": "f"}
}
train.find_dataset = lambda path, _: path
arguments = ["train", "mj-lat", "--preset", "tiny", "--dataset", "x", "--output", "run"]
sys.exit(main.run(arguments))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.mark.beam
def test_a_stopped_synthesize_leaves_no_process_and_no_folder(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    command = Started("synthesize", "--output", "out", "--workers", "2", cwd=tmp_path)
    command.wait_for(lambda: any(tmp_path.glob(".out.unfinished/*/*.264")), seconds=400)
    assert len(command.processes()) > 1
    assert any((tmp_path / "tmp").iterdir())
    _, errors = command.stop(signal.SIGINT)
    assert command.process.returncode == 130
    assert errors.splitlines().count("stopped") == 1  # a Beam worker may print after it
    assert command.processes() == set()
    assert list(tmp_path.rglob("*")) == [tmp_path / "tmp"]


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


BUILD = ("build", "videoset_jnd", "--manual-dir", "in", "--data-dir")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with a tiny synthetic dataset and its undisturbed build."""
    folder = tmp_path_factory.mktemp("built")
    size = ("--num-sources", "15", "--qps", "22,38")
    assert laser_jnd("synthesize", "--output", "in", *size, cwd=folder).returncode == 0
    assert laser_jnd(*BUILD, "data", cwd=folder).returncode == 0
    return folder


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def codec_processes(command):
    return [
        number
        for number in command.processes()
        if b"beam_pipelines.isolation" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]


@pytest.mark.beam
def test_a_codec_process_that_linux_kills_changes_nothing(built, tmp_path):
    data = tmp_path / "data"
    command = Started(*BUILD, data, "--workers", 2, cwd=built)
    command.wait_for(lambda: codec_processes(command), seconds=100)
    os.kill(codec_processes(command)[0], signal.SIGKILL)  # as for lack of memory
    _, errors = command.process.communicate(timeout=100)
    assert command.process.returncode == 0, errors
    assert "the codec process was killed by SIGKILL; trying again" in errors
    assert contents(data) == contents(built / "data")


@pytest.mark.beam
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_was_stopped_completes_when_it_is_run_again(built, tmp_path, number):
    data = tmp_path / "data"
    command = Started(*BUILD, data, cwd=built)
    command.wait_for(lambda: any(data.glob("*/*/.unfinished-*/*")), seconds=100)
    command.stop(number)
    assert command.process.returncode in {-number, 128 + number}
    deadline = time.monotonic() + (10 if number == signal.SIGTERM else 180)
    while command.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert command.processes() == set()
    if number == signal.SIGTERM:
        assert all(".unfinished-2.0.0" in str(path) for path in contents(data))
    assert laser_jnd(*BUILD, data, cwd=built).returncode == 0
    assert contents(data) == contents(built / "data")
