"""How a pipeline is run on this machine."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.options.pipeline_options import PipelineOptions


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


def _num_cores() -> int:
    # macOS has no affinity.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
