"""Runs pipelines on this machine and on Dataflow, and turns their failures into user errors."""

import errno
import importlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
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

from beam_pipelines.rejects import Reject, RejectLimit, check_refusal, write_rejects
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.isolation import MEMORY_BYTES
from laser_dist.machine import free_memory, num_cores

REJECTS = "rejects"
"""Tag of a DoFn's output for rejects."""

# The in-process runner by its full name: the short name may choose one that downloads a program.
LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
DATAFLOW = "DataflowRunner"
MEMORY = f"{MEMORY_BYTES / 1e9:g}GB"
"""Memory for one source.

Dataflow applies it to a whole worker: one with several cores, each with a source, needs more.
"""
POLL_S = 0.5

_JOBS_PAGE = "https://console.cloud.google.com/dataflow/jobs"
# Errors of the output folder that a user can fix, as Python prints them: "[Errno 28] No space ...".
_FOLDER_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def local_options(num_workers: int | None = None, flags: Sequence[str] = ()) -> PipelineOptions:
    """Return options that run a pipeline on this machine.

    Args:
      num_workers: number of child processes of the heavy steps; None for one per available core, or
        fewer if they would not find half of `MEMORY_BYTES` each.
      flags: Beam options, such as credentials for gs://.
    """
    # Without flags, Beam would parse the command line of this process.
    return PipelineOptions(
        flags=list(flags), runner=LOCAL, direct_num_workers=num_workers or _num_workers()
    )


def num_processes(options: PipelineOptions) -> int:
    """Return how many child processes each Beam worker starts for a heavy step.

    On this machine, where Beam has a single worker, as many as `local_options` allow. Other runners
    have a worker per core.
    """
    is_here = options.view_as(StandardOptions).runner == LOCAL
    return options.view_as(DirectOptions).direct_num_workers if is_here else 1


def dataflow_flags(
    flags: Sequence[str], *, inputs: Mapping[str, str], output: tuple[str, str]
) -> list[str]:
    """Complete the Beam options of a Dataflow job.

    Args:
      flags: the user's options.
      inputs: URLs of what is read, by option.
      output: option and gs:// URL of the output folder; Dataflow's own files go to `.dataflow`
        below it by default.

    Raises:
      UserError: no worker image, or locations that Dataflow cannot reach; all problems at once.
    """
    options = PipelineOptions(list(flags))
    problems = []
    if not options.view_as(WorkerOptions).sdk_container_image:
        problems.append(
            "--sdk_container_image with an image built from cluster/dataflow/Dockerfile"
        )
    for option, location in inputs.items():
        if not storage.is_url(location):
            problems.append(f"a URL as {option}, not {location}")
    option, folder = output
    if not folder.startswith("gs://"):
        problems.append(f"a gs:// URL as {option}, not {folder}")
    if problems:
        raise UserError(f"{DATAFLOW} needs {'; '.join(problems)}.")
    cloud = options.view_as(GoogleCloudOptions)
    completed = list(flags)
    if not cloud.temp_location:
        completed.append(f"--temp_location={storage.join(folder, '.dataflow', 'tmp')}")
    if not cloud.staging_location:
        completed.append(f"--staging_location={storage.join(folder, '.dataflow', 'staging')}")
    # The image is complete: workers install nothing.
    completed.append("--sdk_location=container")
    if not any("min_ram" in hint for hint in options.view_as(StandardOptions).resource_hints or ()):
        # For the whole pipeline: a hint for one step would give that step its own workers.
        completed.append(f"--resource_hints=min_ram={MEMORY}")
    if options.view_as(DebugOptions).number_of_worker_harness_threads is None:
        # A 1080p source takes gigabytes; each process of a worker, one per core, handles one.
        completed.append("--number_of_worker_harness_threads=1")
    return completed


def new_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Create an empty pipeline.

    Raises:
      UserError: the runner rejects the options, or is not installed.
    """
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        raise UserError(
            "Beam's worker processes are refused: their ports are open to the network, and accept "
            "anyone.",
            hint="Use --workers without --runner.",
        )
    if options.view_as(StandardOptions).runner == LOCAL:
        options = PipelineOptions.from_dictionary(
            {**options.get_all_options(drop_default=True), "direct_num_workers": 1}
        )
    try:
        if options.view_as(StandardOptions).runner == DATAFLOW:
            # Beam itself imports the Google Cloud packages only when it submits the job.
            importlib.import_module("apache_beam.runners.dataflow.internal.apiclient")
        return beam.Pipeline(options=options)
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"Beam rejects the options: {reason}.") from error
    except ImportError as error:
        raise UserError(
            f"The Beam runner is not installed: {error}.",
            hint="Install laser-jnd[gcp] for Dataflow.",
        ) from error


def run_to_end(
    pipeline: beam.Pipeline,
    on_start: Callable[[str], None] = lambda job: None,
    on_poll: Callable[[], None] = lambda: None,
) -> None:
    """Run a pipeline and wait for its end.

    If this process is stopped, it cancels its Dataflow job: nobody would publish the dataset.

    Args:
      pipeline: pipeline to run.
      on_start: called with name and page of a Dataflow job.
      on_poll: called every `POLL_S` seconds while the pipeline runs on this machine.

    Raises:
      UserError: Dataflow rejects the job, or the job fails.
    """
    if pipeline.options.view_as(StandardOptions).runner != DATAFLOW:
        state = _run_here(pipeline, on_poll)
        if state not in (None, PipelineState.DONE):
            raise UserError(
                f"The Beam job ended in state {state}.", hint="See the log of the runner."
            )
        return
    result = _submit(pipeline)
    try:
        _wait(result, pipeline.options, on_start)
    except KeyboardInterrupt:
        result.cancel()
        raise


def wait_for_job(options: PipelineOptions, job_id: str, on_start: Callable[[str], None]) -> None:
    """Wait for the end of a Dataflow job that another process has started.

    Args:
      options: options of the job: project, region, credentials.
      job_id: id of the job.
      on_start: called with name and page of the job.

    Raises:
      UserError: there is no such job, or it fails.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult, DataflowRunner
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    runner: Any = DataflowRunner()
    try:
        client = runner.dataflow_client = DataflowApplicationClient(options)
        # Unwrapped: Beam would ask for a job that does not exist for ten minutes.
        get_job: Any = DataflowApplicationClient.get_job
        job = get_job.__wrapped__(client, job_id)
    except (GoogleAPIError, GoogleAuthError, OSError) as error:
        raise UserError(
            f"Dataflow job {job_id} cannot be found: {' '.join(str(error).split())}",
            hint="Check the job, project, region and your credentials.",
        ) from error
    _wait(DataflowPipelineResult(job, runner, options), options, on_start)


def _wait(result: Any, options: PipelineOptions, on_start: Callable[[str], None]) -> None:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    cloud, job = options.view_as(GoogleCloudOptions), result.job_id()
    page = f"{_JOBS_PAGE}/{cloud.region}/{job}?project={cloud.project}"
    on_start(f"Dataflow job {job}, {page}")
    reason = ""
    try:
        if result.wait_until_finish() in (None, PipelineState.DONE):
            return
    except DataflowRuntimeException as error:
        # The last line of a worker's traceback is the error.
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    raise UserError(
        f"Dataflow job {job} ended in state {result.state}" + (f": {reason}" if reason else "."),
        hint=f"See its log: {page}",
    )


def _run_here(pipeline: beam.Pipeline, on_poll: Callable[[], None]) -> str | None:
    """Run a pipeline in a thread that ends with the program, and return its last state."""
    ended: Future[str | None] = Future()

    def run() -> None:
        try:
            ended.set_result(pipeline.run().wait_until_finish())
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            ended.set_exception(error)

    steps = logging.getLogger("apache_beam.runners.common")
    steps.addFilter(_as_debug)  # Beam logs the exception of a step, and raises it too
    try:
        threading.Thread(target=run, name="pipeline", daemon=True).start()
        while not wait([ended], POLL_S).done:
            on_poll()
    finally:
        steps.removeFilter(_as_debug)
    return ended.result()


def _as_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return True


def _submit(pipeline: beam.Pipeline) -> Any:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        return pipeline.run()
    except (GoogleAPIError, GoogleAuthError, OSError) as error:  # OSError while staging
        raise UserError(
            f"Dataflow rejected the job: {' '.join(str(error).split())}",
            hint="Check project, region, buckets and your credentials.",
        ) from error


def _num_workers() -> int:
    return max(1, min(num_cores(), 2 * free_memory() // MEMORY_BYTES))


class WriteRejects(beam.DoFn):
    """Writes all rejects into one table; fails the pipeline if there are too many."""

    def __init__(self, location: str | Path, limit: RejectLimit) -> None:
        """Store the arguments.

        Args:
          location: path or URL of the table.
          limit: when there are too many.
        """
        self._location = location
        self._limit = limit

    def process(self, rejects: Sequence[Reject]) -> Iterable[int]:
        """Yield the number of rejects; count them by kind."""
        limit, found = self._limit, self._limit.all_rejects(rejects)
        for reject in found:
            beam.metrics.Metrics.counter("rejects", reject.what).inc()
        write_rejects(found, limit.total, self._location, max_rate=limit.max_rate)
        limit.check(rejects)
        yield len(found)


@contextmanager
def translate_failures(
    refusal: str | Path, output: str | Path, *, is_new: bool = True
) -> Iterator[None]:
    """Turn a pipeline failure that the user can fix into a `UserError`.

    Args:
      refusal: as for `RejectLimit`; kept after a refusal for the user.
      output: output folder, for messages.
      is_new: whether the pipeline starts in the block; an earlier table is then removed.

    Raises:
      UserError: too many rejects, or `output` cannot be written.
    """
    try:
        if is_new:
            storage.remove(refusal)
    except OSError as error:
        raise _cannot_write(output, error.strerror or str(error)) from error
    try:
        yield
    except Exception as error:
        # The refusal first: without worker processes Beam raises the UserError itself, but adds
        # to its text.
        if storage.exists(refusal):
            _raise_refusal(refusal, error)
        if isinstance(error, UserError):
            raise
        for number in map(int, _ERRNO.findall(str(error))):
            if number in _FOLDER_ERRORS:
                raise _cannot_write(output, os.strerror(number)) from error
        raise


def _raise_refusal(refusal: str | Path, error: Exception) -> None:
    try:
        check_refusal(refusal)
    except UserError as refused:
        raise refused from error


def _cannot_write(output: str | Path, reason: str) -> UserError:
    return UserError(
        f"Output folder {output} cannot be written: {reason}.",
        hint="Fix the problem, or name another folder.",
    )
