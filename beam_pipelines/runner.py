"""How a pipeline is run on this machine."""

import os

from apache_beam.options.pipeline_options import PipelineOptions


def local_options(num_workers: int | None = None) -> PipelineOptions:
    """Options that run a pipeline on this machine's cores, each worker a process of its own.

    Processes, not threads: encoding lets go of Python's lock, measuring and filming do not.

    Args:
      num_workers: how many; by default one per core that this process may use.
    """
    count = num_workers or len(os.sched_getaffinity(0))
    return PipelineOptions(
        # The old in-process runner by name: the short name may choose one that fetches a program.
        runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        direct_num_workers=count,
        direct_running_mode="multi_processing" if count > 1 else "in_memory",
    )
