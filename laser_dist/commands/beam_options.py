"""Options of Apache Beam on the command line of `build`, `predict` and `encode`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from laser_dist.errors import UserError, nearest

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

LOCAL_RUNNER = "DirectRunner"
"""Runs a pipeline on this machine, in child processes of this project, not of Beam."""


class _BeamParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"Invalid Beam option: {message}.")


def runner_options(
    command: str,
    *,
    runner: str | None,
    workers: int | None,
    flags: Sequence[str],
    inputs: Mapping[str, str],
    output: tuple[str, str],
) -> PipelineOptions:
    """Return the options of the Beam runner.

    Args:
      command: name of the command, for messages.
      runner: name of the runner; None or `LOCAL_RUNNER` for this machine.
      workers: number of processes on this machine; None to choose it by cores and free memory.
      flags: Beam options.
      inputs: what is read, by option: paths or URLs.
      output: option and location of the output folder.

    Raises:
      UserError: options that Beam does not know, or required ones that are missing.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_pipelines.runner import DATAFLOW, dataflow_flags, local_options, new_pipeline

    check_known(command, flags, PipelineOptions)
    if runner in (None, LOCAL_RUNNER):
        options = local_options(workers, flags)
    else:
        if runner == DATAFLOW:
            flags = dataflow_flags(flags, inputs=inputs, output=output)
        options = PipelineOptions([f"--runner={runner}", *flags])
    # It reports what the runner rejects before anything is read, and makes a folder.
    shutil.rmtree(new_pipeline(options).local_tempdir, ignore_errors=True)
    return options


def check_workers(runner: str | None, workers: int | None) -> list[str]:
    """Return what is wrong with `--workers` next to `--runner`, as sentences."""
    if workers is None or runner in (None, LOCAL_RUNNER):
        return []
    return [f"--workers cannot be used with --runner {runner}; use the options of the runner."]


def check_known(command: str, flags: Sequence[str], options: type) -> None:
    """Check that Beam knows all flags.

    Args:
      command: name of the command, for messages.
      flags: flags as on a command line.
      options: Beam's `PipelineOptions`.

    Raises:
      UserError: unknown flags or invalid values.
    """
    parser = _BeamParser(add_help=False, allow_abbrev=False)
    for each in options.__subclasses__():
        # Each group of options declares its own; two groups declare the same name.
        group = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        each._add_argparse_args(group)
        known = {name for action in parser._actions for name in action.option_strings}
        for action in group._actions:
            if not known.intersection(action.option_strings):
                parser._add_action(action)
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        suggestion = nearest(unknown[0].partition("=")[0], parser._option_string_actions)
        raise UserError(
            f"Neither laser-jnd {command} nor Apache Beam accepts: {' '.join(unknown)}",
            hint=suggestion or f"See `laser-jnd {command} --help`.",
        )
