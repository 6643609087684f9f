"""`laser-jnd doctor` on this machine; tests of Ray jobs run it on a cluster."""

from importlib.metadata import version

import pytest
from command_line import laser_jnd_here

from laser_dist.commands import doctor
from laser_dist.training import devices

pytestmark = pytest.mark.slow


def test_it_prints_versions_and_finds_no_problem_in_this_environment():
    done = laser_jnd_here("doctor")
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    for package in doctor.PACKAGES:
        assert [package, version(package)] in lines
    assert ["No", "problem", "found."] in lines


def test_gpus_that_tensorflow_does_not_see_are_a_problem(monkeypatch):
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    done = laser_jnd_here("doctor", "--gpus-per-worker", "2")
    assert done.returncode == 2
    assert "This machine has a GPU, but TensorFlow sees none." in done.stderr
    assert "TensorFlow sees 0 of the 2 GPUs of a worker" in done.stderr


def test_a_filter_that_ffmpeg_lacks_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", ("libx264", "no-such-filter"))
    facts, problems = doctor.ffmpeg_facts()
    assert ("libx264", "found") in facts
    assert problems == ["PyAV's FFmpeg has no no-such-filter."]
