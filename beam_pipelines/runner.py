"""How a pipeline is run on this machine."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.runner import PipelineState

from beam_pipelines import storage
from laser_dist.errors import UserError


def local_options(num_workers: int | None = None, flags: Sequence[str] = ()) -> PipelineOptions:
    """Options that run a pipeline on this machine's cores, each worker a process of its own.

    Processes, not threads: encoding lets go of Python's lock, measuring and filming do not.

    Args:
      num_workers: how many; by default one per core that this process may use. One runs in this
        process, as do all where the path of Python has a space or the like: Beam hands it to a
        shell without quotes.
      flags: Beam's own, such as credentials for gs://.
    """
    count = num_workers or _num_cores()
    if shlex.quote(sys.executable) != sys.executable:
        count = 1
    return PipelineOptions(
        # Beam would look for options of its own on our command line.
        flags=list(flags),
        # The old in-process runner by name: the short name may choose one that fetches a program.
        runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        direct_num_workers=count,
        direct_running_mode="multi_processing" if count > 1 else "in_memory",
    )


MEMORY = "4GB"
"""For one source of 1080p: reference and clip decoded, and RGB frames of both."""


def dataflow_flags(flags: Sequence[str], data_dir: str) -> list[str]:
    """Beam's flags for Dataflow, completed by what this project's workers need.

    Args:
      flags: the user's.
      data_dir: URL; Dataflow's own files go to `tmp` and `staging` below it unless the user says
        otherwise.

    Raises:
      UserError: no image for the workers, or a place that they cannot reach.
    """
    options = PipelineOptions(list(flags))
    if not options.view_as(WorkerOptions).sdk_container_image:
        raise UserError(
            "Dataflow's workers",
            "an image that holds this project",
            "no --sdk_container_image",
            "Build one from cluster/dataflow/Dockerfile.",
        )
    if not storage.is_remote(data_dir):
        raise UserError(
            "Option --data-dir", "a gs:// URL with Dataflow", data_dir, "Name a bucket."
        )
    cloud = options.view_as(GoogleCloudOptions)
    completed = list(flags)
    if not cloud.temp_location:
        completed.append(f"--temp_location={storage.join(data_dir, '.dataflow', 'tmp')}")
    if not cloud.staging_location:
        completed.append(f"--staging_location={storage.join(data_dir, '.dataflow', 'staging')}")
    # The image is whole: nothing is installed when a worker starts.
    completed.append("--sdk_location=container")
    if not any("min_ram" in hint for hint in options.view_as(StandardOptions).resource_hints or ()):
        # Of the whole pipeline: a hint for one step would give that step workers of its own.
        completed.append(f"--resource_hints=min_ram={MEMORY}")
    if options.view_as(WorkerOptions).number_of_worker_harness_threads is None:
        # A source of 1080p takes gigabytes; each process of a worker, one a core, does one.
        completed.append("--number_of_worker_harness_threads=1")
    return completed


def run_to_end(pipeline: beam.Pipeline, on_start: Callable[[str], None]) -> None:
    """Runs a pipeline and waits for its end.

    Args:
      pipeline: to run.
      on_start: called with the job's name or page, where it runs on other machines.

    Raises:
      UserError: a job on other machines did not succeed.
    """
    result = pipeline.run()
    job_id = getattr(result, "job_id", None)
    if callable(job_id) and pipeline.options.view_as(StandardOptions).runner == "DataflowRunner":
        job_id = job_id()
        on_start(f"Dataflow job {job_id}")
    state = result.wait_until_finish()
    if state not in (None, PipelineState.DONE):
        raise UserError(f"Job {job_id}", "its success", state, "See the runner's log.")


@contextmanager
def worker_environment() -> Iterator[None]:
    """What worker processes started in the block find in their environment; undone at its end.

    Writing TFDS's files makes each worker import TensorFlow, and that imports Keras, scikit-learn
    and SciPy's statistics, which no worker uses: half of the 10 to 15 CPU seconds a worker takes
    to start. TensorFlow leaves them out where it is told that Keras is the legacy package, which
    is not installed. Should this process itself import TensorFlow first within the block, it has
    no `tf.keras`; `import keras`, the project's way, works as ever.
    """
    settings = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _num_cores() -> int:
    # macOS has no affinity.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
