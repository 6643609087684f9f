import os
import subprocess
import sys
import threading
import time

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


def test_one_worker_runs_in_this_process_and_several_in_processes(monkeypatch):
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


def test_dataflow_options_are_completed_unless_given():
    flags = dataflow_flags(["--sdk_container_image=image"], **BUCKETS)
    assert flags[1:] == [
        "--temp_location=gs://mine/data/.dataflow/tmp",
        "--staging_location=gs://mine/data/.dataflow/staging",
        "--sdk_location=container",
        "--resource_hints=min_ram=4GB",
        "--number_of_worker_harness_threads=1",
    ]
    given = [
        "--sdk_container_image=image",
        "--temp_location=gs://mine/tmp",
        "--staging_location=gs://mine/tmp",
        "--resource_hints=min_ram=9GB",
        "--number_of_worker_harness_threads=2",
    ]
    assert dataflow_flags(given, **BUCKETS) == [*given, "--sdk_location=container"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"flags": []}, "--sdk_container_image with an image built from cluster/dataflow"),
        ({"manual_dir": "/data"}, "a URL as --manual-dir, not /data"),
        ({"data_dir": "s3://mine"}, "a gs:// URL as --data-dir, not s3://mine"),
    ],
)
def test_missing_dataflow_options_are_reported(changes, text):
    arguments = {"flags": ["--sdk_container_image=image"], **BUCKETS, **changes}
    with pytest.raises(UserError, match=text):
        dataflow_flags(**arguments)


class Job:
    """Stands in for a Dataflow job."""

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


def test_a_failed_job_is_reported_with_its_page():
    error = DataflowRuntimeException("Dataflow failed\n  File ...\nMemoryError: no more\n", None)
    started = []
    with pytest.raises(UserError) as raised:
        run_on_dataflow(Job(error), started.append)
    page = "https://console.cloud.google.com/dataflow/jobs/r/7?project=p"
    assert started == [f"Dataflow job 7, {page}"]
    assert str(raised.value) == (
        f"Dataflow job 7 ended in state FAILED: MemoryError: no more\nhint: See its log: {page}"
    )


def test_a_job_is_canceled_if_this_process_is_interrupted():
    job = Job(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_on_dataflow(job)
    assert job.canceled


def test_dataflow_without_a_project_is_an_error():
    options = PipelineOptions(["--runner=DataflowRunner", "--region=r"])
    with pytest.raises(UserError, match="rejects the options: .* required option: project"):
        new_pipeline(options)


def test_a_runner_that_is_not_installed(monkeypatch):
    def none(name):
        raise ImportError("Dataflow runner not available")

    monkeypatch.setattr("apache_beam.pipeline.create_runner", none)
    with pytest.raises(UserError, match=r"runner not available\.\n.*laser-jnd\[gcp\]"):
        new_pipeline(PipelineOptions(["--runner=DataflowRunner"]))


# In a separate process: Beam's threads keep raising after the run has ended.
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
def test_a_worker_process_that_crashes_is_a_user_error():
    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, timeout=90)
    assert done.stdout.startswith("A Beam worker process crashed")


def test_a_local_run_polls_until_it_ends(monkeypatch):
    monkeypatch.setattr("beam_pipelines.runner.POLL_S", 0.001)
    polled = threading.Event()
    pipeline = beam.Pipeline(options=local_options(1))
    _ = pipeline | beam.Create([1]) | beam.Map(lambda _: time.sleep(0.2))
    run_to_end(pipeline, on_poll=polled.set)
    assert polled.is_set()
