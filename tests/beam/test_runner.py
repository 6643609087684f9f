import os
import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

from beam_pipelines.runner import (
    dataflow_flags,
    local_options,
    new_pipeline,
    run_to_end,
)
from laser_dist.errors import UserError


def test_one_worker_runs_in_this_process_and_several_in_their_own(monkeypatch):
    def mode(count):
        options = local_options(count).view_as(DirectOptions)
        return options.direct_running_mode, options.direct_num_workers

    monkeypatch.setattr(sys, "argv", ["laser-jnd", "--direct_num_workers=9"])  # not for Beam
    assert mode(1) == ("in_memory", 1)
    assert mode(3) == ("multi_processing", 3)
    assert mode(None)[1] == len(os.sched_getaffinity(0))
    # Beam starts its workers by an unquoted shell line.
    monkeypatch.setattr(sys, "executable", "/a folder/python")
    assert mode(3) == ("in_memory", 1)


BUCKETS = {"manual_dir": "gs://mine/in", "data_dir": "gs://mine/data"}


def test_what_dataflow_needs_is_added_unless_it_is_said():
    flags = dataflow_flags(["--sdk_container_image=image"], **BUCKETS)
    assert flags[1:] == [
        "--temp_location=gs://mine/data/.dataflow/tmp",
        "--staging_location=gs://mine/data/.dataflow/staging",
        "--sdk_location=container",
        "--resource_hints=min_ram=4GB",
        "--number_of_worker_harness_threads=1",
    ]
    said = [
        "--sdk_container_image=image",
        "--temp_location=gs://mine/tmp",
        "--staging_location=gs://mine/tmp",
        "--resource_hints=min_ram=9GB",
        "--number_of_worker_harness_threads=2",
    ]
    assert dataflow_flags(said, **BUCKETS) == [*said, "--sdk_location=container"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"flags": []}, "no --sdk_container_image. Build one from cluster/dataflow/Dockerfile"),
        ({"manual_dir": "/data"}, "Option --manual-dir: expected a URL that Dataflow can read"),
        ({"data_dir": "s3://mine"}, "Option --data-dir: expected a gs:// URL with Dataflow"),
    ],
)
def test_what_dataflow_cannot_do_without(changes, text):
    arguments = {"flags": ["--sdk_container_image=image"], **BUCKETS, **changes}
    with pytest.raises(UserError, match=text):
        dataflow_flags(**arguments)


class Job:
    """As Dataflow's."""

    state = "FAILED"
    canceled = False

    def __init__(self, end):
        self._end = end

    def job_id(self):
        return "7"

    def wait_until_finish(self):
        raise self._end

    def cancel(self):
        self.canceled = True


def run_on_dataflow(job, on_start=lambda job: None):
    options = PipelineOptions(["--project=p", "--region=r"])
    options.view_as(StandardOptions).runner = "DataflowRunner"
    pipeline = beam.Pipeline("DirectRunner", options=options)
    pipeline.run = lambda: job
    run_to_end(pipeline, on_start)


def test_a_job_that_fails_is_told_with_its_page():
    error = DataflowRuntimeException("Dataflow failed\n  File ...\nMemoryError: no more\n", None)
    told = []
    with pytest.raises(UserError) as raised:
        run_on_dataflow(Job(error), told.append)
    page = "https://console.cloud.google.com/dataflow/jobs/r/7?project=p"
    assert told == [f"Dataflow job 7, {page}"]
    assert str(raised.value) == (
        "Dataflow job 7: expected its success, got FAILED: MemoryError: no more. "
        f"See its log: {page}"
    )


def test_a_job_ends_with_whoever_waits_for_it():
    job = Job(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_on_dataflow(job)
    assert job.canceled


def test_dataflow_without_a_project_is_an_error():
    options = PipelineOptions(["--runner=DataflowRunner", "--region=r"])
    with pytest.raises(UserError, match="Beam's options: .* Missing required option: project"):
        new_pipeline(options)


def test_a_runner_that_is_not_installed(monkeypatch):
    def none(name):
        raise ImportError("Dataflow runner not available")

    monkeypatch.setattr("apache_beam.pipeline.create_runner", none)
    with pytest.raises(UserError, match=r"got Dataflow runner not available\. Dataflow's: .*gcp"):
        new_pipeline(PipelineOptions(["--runner=DataflowRunner"]))


# In a process of its own: Beam's threads go on raising after the run has ended.
DYING = """
import os, signal
import apache_beam as beam
from beam_pipelines.runner import local_options, run_to_end
from laser_dist.errors import UserError

pipeline = beam.Pipeline(options=local_options(2))
numbers = pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle()
numbers | beam.Map(lambda _: os.kill(os.getpid(), signal.SIGKILL))
try:
    run_to_end(pipeline)
except UserError as error:
    print(error, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_a_worker_process_that_dies_ends_the_run_with_a_clear_error():
    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, timeout=90)
    assert done.stdout.startswith("A worker process of Beam's: expected to live until the work")
