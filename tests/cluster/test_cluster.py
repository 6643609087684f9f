"""The Dataflow image, options and script agree with the project. No image is built here."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

from beam_pipelines.runner import dataflow_flags
from laser_dist.commands.beam_options import check_known
from laser_dist.errors import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "dataflow"


def dockerfile():
    return (FOLDER / "Dockerfile").read_text()


def flags():
    lines = (FOLDER / "options.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_image_has_the_locked_beam_version_and_one_python():
    locked = re.search(r"^apache-beam==(\S+)$", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked
    boot = re.search(r"^FROM apache/beam_python(\S+)_sdk:(\S+) AS beam$", dockerfile(), re.M)
    assert boot
    python = re.search(r"^FROM python:(\S+)-slim$", dockerfile(), re.M)
    assert python
    assert boot[2] == locked[1]
    assert f"apache_beam.__version__ == '{locked[1]}'" in dockerfile()
    assert boot[1] == python[1]


def test_the_image_copies_existing_files_and_ignores_all_others():
    copied = [
        name
        for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile(), re.M)
        for name in line.split()
    ]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    not_ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(copied) == sorted(line[1:] for line in not_ignored if line.startswith("!"))
    assert "apt" not in re.sub(r"^#.*$", "", dockerfile(), flags=re.M)


def test_beam_accepts_the_options():
    given = [*flags(), "--sdk_container_image=image", "--project=mine", "--region=europe-west4"]
    check_known("build", given, PipelineOptions)
    locations = {"inputs": {}, "output": ("--data-dir", "gs://mine/data")}
    completed = dataflow_flags(given, **locations)
    options = PipelineOptions(completed)
    assert options.view_as(WorkerOptions).machine_type == "n2-highmem-4"
    with pytest.raises(UserError, match="--no_such_size"):
        check_known("build", [*given, "--no_such_size=3"], PipelineOptions)


def test_the_script_builds_pushes_and_runs_the_command(tmp_path):
    for name in ("docker", "laser-jnd"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    places = ("gs://mine/in", "gs://mine/data")
    done = subprocess.run(
        [FOLDER / "build.sh", "image:1", "mine", "europe-west4", *places, "--config", "1080p"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    build, push, command = done.stdout.splitlines()
    assert build.startswith("docker build --platform linux/amd64 --tag image:1 --file ")
    assert push == "docker push image:1"
    assert command == (
        "laser-jnd build videoset_jnd --manual-dir gs://mine/in --data-dir gs://mine/data "
        "--runner DataflowRunner --project mine --region europe-west4 "
        f"--sdk_container_image image:1 {' '.join(flags())} --config 1080p"
    )
    few = subprocess.run([FOLDER / "build.sh", "image:1"], capture_output=True, text=True)
    assert (few.returncode, few.stdout) == (2, "")
    assert few.stderr.startswith("usage: ")
