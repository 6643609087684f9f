"""How a pipeline is run on this machine."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from apache_beam.options.pipeline_options import PipelineOptions

from laser_dist.errors import UserError


def local_options(num_workers: int | None = None) -> PipelineOptions:
    """Options that run a pipeline on this machine's cores, each worker a process of its own.

    Processes, not threads: encoding lets go of Python's lock, measuring and filming do not.

    Args:
      num_workers: how many; by default one per core that this process may use. One runs in this
        process, as do all where the path of Python has a space or the like: Beam hands it to a
        shell without quotes.
    """
    count = num_workers or _num_cores()
    if shlex.quote(sys.executable) != sys.executable:
        count = 1
    return PipelineOptions(
        # Beam would look for options of its own on our command line.
        flags=[],
        # The old in-process runner by name: the short name may choose one that fetches a program.
        runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        direct_num_workers=count,
        direct_running_mode="multi_processing" if count > 1 else "in_memory",
    )


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


@contextmanager
def quiet_workers(log_path: Path) -> Iterator[TextIO]:
    """Sends all that this process and its children print to a file while a pipeline runs.

    Beam's workers, TensorFlow and TFDS write to the file descriptors 1 and 2, from C++ and from
    processes of their own, past Python's `sys.stderr`. So the descriptors themselves are turned,
    for the whole process: no other thread should print meanwhile.

    Args:
      log_path: of the file, added to; its folder is made.

    Yields:
      A line-buffered text stream on the real stderr, for progress; closed at the end.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log = log_path.open("ab", buffering=0)
    except OSError as error:
        raise UserError(
            f"Log {log_path}",
            "a place that can be written",
            error.strerror or str(error),
            "Free it or name another.",
        ) from error
    with log:
        _flush_streams()
        saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            with open(os.dup(saved[2]), "w", buffering=1, errors="replace") as terminal:
                for descriptor in saved:
                    os.dup2(log.fileno(), descriptor)
                yield terminal
        finally:
            _flush_streams()  # what was printed meanwhile belongs into the file
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed pipe or stream has nothing left to save
            continue


def _num_cores() -> int:
    # macOS has no affinity.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
