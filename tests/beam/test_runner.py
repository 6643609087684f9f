import os
import sys
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

from beam_pipelines import runner
from beam_pipelines.runner import (
    dataflow_flags,
    local_options,
    new_pipeline,
    num_processes,
    run_to_end,
)
from laser_dist.errors import UserError

pytestmark = pytest.mark.slow


def test_a_local_pipeline_has_one_worker_in_this_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["laser-jnd", "--direct_num_workers=9"])  # not for Beam
    num_cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(runner, "free_memory", lambda: 2e9 * num_cores)
    for asked, count in ((1, 1), (3, 3), (None, num_cores)):
        options = local_options(asked)
        assert num_processes(options) == count
        direct = new_pipeline(options).options.view_as(DirectOptions)
        assert (direct.direct_running_mode, direct.direct_num_workers) == ("in_memory", 1)
    assert num_processes(PipelineOptions(["--runner=DataflowRunner"])) == 1


@pytest.mark.parametrize(("gigabytes", "count"), [(0.5, 1), (3.9, 1), (6.1, 3), (400, 8)])
def test_by_default_each_process_finds_a_core_and_memory(monkeypatch, gigabytes, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(runner, "free_memory", lambda: gigabytes * 1e9)
    assert num_processes(local_options()) == count
    assert num_processes(local_options(5)) == 5


def test_worker_processes_of_beam_are_refused():
    options = PipelineOptions(["--runner=DirectRunner", "--direct_running_mode=multi_processing"])
    with pytest.raises(UserError, match="ports are open to the network"):
        new_pipeline(options)


BUCKETS = {
    "inputs": {"--manual-dir": "gs://mine/in"},
    "output": ("--data-dir", "gs://mine/data"),
}


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
        ({"inputs": {"--manual-dir": "/data"}}, "a URL as --manual-dir, not /data"),
        ({"output": ("--data-dir", "s3://mine")}, "a gs:// URL as --data-dir, not s3://mine"),
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


def test_a_local_run_polls_until_it_ends(monkeypatch):
    monkeypatch.setattr("beam_pipelines.runner.POLL_S", 0.001)
    polled = threading.Event()
    pipeline = beam.Pipeline(options=local_options(1))
    _ = pipeline | beam.Create([1]) | beam.Map(lambda _: time.sleep(0.2))
    run_to_end(pipeline, on_poll=polled.set)
    assert polled.is_set()
