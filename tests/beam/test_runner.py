import os
import subprocess
import sys

import pytest
from apache_beam.options.pipeline_options import DirectOptions

from beam_pipelines.runner import local_options, quiet_workers, worker_environment
from laser_dist.errors import UserError

SHOUT = """
import os, subprocess, sys
from pathlib import Path
from beam_pipelines.runner import quiet_workers
print("before")
try:
    with quiet_workers(Path(sys.argv[1])) as terminal:
        print("python", flush=True)
        print("buffered")
        os.write(2, b"descriptor\\n")
        subprocess.run(["echo", "child"], check=True)
        print("progress 1/2", file=terminal)
        if sys.argv[2] == "fail":
            raise KeyError("boom")
except KeyError:
    print("caught")
print("after")
print("after too", file=sys.stderr)
"""


@pytest.mark.parametrize("end", ["well", "fail"])
def test_all_output_goes_to_the_log_and_comes_back(tmp_path, end):
    log = tmp_path / "logs" / "beam.log"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHOUT, str(log), end],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    caught = ["caught"] if end == "fail" else []
    assert done.stdout.split("\n") == ["before", *caught, "after", ""]
    assert done.stderr.splitlines()[-2:] == ["progress 1/2", "after too"]
    assert sorted(log.read_text().split()) == ["buffered", "child", "descriptor", "python"]


def test_no_descriptor_is_left_open(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    with quiet_workers(tmp_path / "log"):
        pass
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="Log .*log: expected a place that can be written"),
        quiet_workers(tmp_path / "file" / "log"),
    ):
        pytest.fail("the block must not begin")


def test_the_workers_environment_is_undone(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    before = dict(os.environ)
    with worker_environment():
        assert os.environ["TF_USE_LEGACY_KERAS"] == "1"
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    assert dict(os.environ) == before


def test_one_worker_runs_in_this_process_and_several_in_their_own(monkeypatch):
    def mode(count):
        options = local_options(count).view_as(DirectOptions)
        return options.direct_running_mode, options.direct_num_workers

    monkeypatch.setattr(sys, "argv", ["laser-jnd", "--direct_num_workers=9"])  # not for Beam
    assert mode(1) == ("in_memory", 1)
    assert mode(3) == ("multi_processing", 3)
    assert mode(None)[1] == len(os.sched_getaffinity(0))
    # Beam starts its workers by an unquoted shell line.
    monkeypatch.setattr(sys, "executable", "/home/a user/python")
    assert mode(3) == ("in_memory", 1)
