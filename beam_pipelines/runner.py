"""How a pipeline is run, on this machine and on Dataflow."""

import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.runner import PipelineState

from laser_dist import storage
from laser_dist.errors import UserError

# The old in-process runner by name: the short name may choose one that fetches a program.
LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


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
        runner=LOCAL,
        direct_num_workers=count,
        direct_running_mode="multi_processing" if count > 1 else "in_memory",
    )


def one_worker(options: PipelineOptions) -> tuple[PipelineOptions, int]:
    """Options of `local_options` for a single worker in this process, and how many there were.

    For a pipeline whose heavy step has processes of its own. Other runners' options stay.
    """
    if options.view_as(StandardOptions).runner != LOCAL:
        return options, 1
    count = options.view_as(DirectOptions).direct_num_workers
    here = {"direct_num_workers": 1, "direct_running_mode": "in_memory"}
    return PipelineOptions.from_dictionary(
        {**options.get_all_options(drop_default=True), **here}
    ), count


DATAFLOW = "DataflowRunner"
_JOBS_PAGE = "https://console.cloud.google.com/dataflow/jobs"

MEMORY = "4GB"
"""For one source of 1080p: reference and clip decoded, and RGB frames of both.

Dataflow takes it for a whole worker: one of several cores, each with a source, needs a larger hint.
"""


def dataflow_flags(flags: Sequence[str], *, manual_dir: str, data_dir: str) -> list[str]:
    """Beam's flags for Dataflow, completed by what this project's workers need.

    Args:
      flags: the user's.
      manual_dir: URL of clips and labels.
      data_dir: gs:// URL; Dataflow's own files go to `.dataflow` below it unless the user says
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
    if not storage.is_url(manual_dir):
        raise UserError(
            "Option --manual-dir",
            "a URL that Dataflow can read",
            manual_dir,
            "Copy it to a bucket.",
        )
    if not data_dir.startswith("gs://"):
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
    if options.view_as(DebugOptions).number_of_worker_harness_threads is None:
        # A source of 1080p takes gigabytes; each process of a worker, one a core, does one.
        completed.append("--number_of_worker_harness_threads=1")
    return completed


def new_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """An empty pipeline.

    Raises:
      UserError: the runner finds fault with the options, or is not installed.
    """
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UserError("Beam's options", "options that go together", said, "Mend them.") from error
    except ImportError as error:
        raise UserError(
            "Beam's runner", "one that is installed", str(error), "Dataflow's: laser-jnd[gcp]."
        ) from error


def run_to_end(pipeline: beam.Pipeline, on_start: Callable[[str], None] = lambda job: None) -> None:
    """Runs a pipeline and waits for its end.

    A job on Dataflow is canceled where this process is stopped meanwhile: nobody would publish
    its dataset.

    Args:
      pipeline: to run.
      on_start: called with the job's name and page, where it runs on Dataflow.

    Raises:
      UserError: Dataflow does not take the job, the job does not succeed, or one of this machine's
        worker processes died.
    """
    if pipeline.options.view_as(StandardOptions).runner != DATAFLOW:
        state = _run_here(pipeline)
        if state not in (None, PipelineState.DONE):
            raise UserError("The runner's job", "its success", str(state), "See the runner's log.")
        return
    result = _submit(pipeline)
    cloud = pipeline.options.view_as(GoogleCloudOptions)
    page = f"{_JOBS_PAGE}/{cloud.region}/{result.job_id()}?project={cloud.project}"
    on_start(f"Dataflow job {result.job_id()}, {page}")
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    try:
        result.wait_until_finish()
    except DataflowRuntimeException as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        # Of a worker's traceback the last line tells most.
        raise UserError(
            f"Dataflow job {result.job_id()}",
            "its success",
            f"{result.state}: {said[-1]}",
            f"See its log: {page}",
        ) from error
    except KeyboardInterrupt:
        result.cancel()
        raise


def _run_here(pipeline: beam.Pipeline) -> str | None:
    """Runs a pipeline in a thread of its own and gives its last state.

    Beam raises in one of its threads where a worker process has died, and then waits for it for
    ever. So this one waits for either.
    """
    ended = threading.Event()
    states: list[str | None] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            states.append(pipeline.run().wait_until_finish())
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            faults.append(error)
        ended.set()

    def notice(fault: threading.ExceptHookArgs) -> None:
        before(fault)
        if "Worker subprocess exited" in str(fault.exc_value):
            faults.append(
                UserError(
                    "A worker process of Beam's",
                    "to live until the work is done",
                    f"its end ({fault.exc_value}); perhaps the memory was full",
                    "Run it again; with fewer --workers it takes less memory.",
                )
            )
            ended.set()

    before, threading.excepthook = threading.excepthook, notice
    try:
        threading.Thread(target=run, name="pipeline", daemon=True).start()
        ended.wait()
    finally:
        threading.excepthook = before
    if faults:
        raise faults[0]
    return states[0]


def _submit(pipeline: beam.Pipeline) -> Any:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        return pipeline.run()
    except (GoogleAPIError, GoogleAuthError, OSError) as error:  # the last one while staging
        raise UserError(
            "Dataflow",
            "a job that it takes",
            " ".join(str(error).split()),
            "Check project, region, buckets and your credentials.",
        ) from error


def _num_cores() -> int:
    # macOS has no affinity.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
