"""Beam's own options on our command line: checked, and handed on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from laser_dist.errors import UserError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


class _Refusing(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("Beam's options", "options as Beam has them", message, "Mend them.")


def pipeline_options(
    runner: str | None,
    flags: Sequence[str],
    *,
    workers: int | None,
    manual_dir: str,
    data_dir: str,
) -> PipelineOptions:
    """Beam's options for a build.

    Args:
      runner: Beam's name of it; None for this machine's cores.
      flags: all that our own parser did not know.
      workers: processes on this machine.
      manual_dir: where clips and labels are.
      data_dir: where the dataset goes; Dataflow keeps its own files beside it.

    Raises:
      UserError: options that Beam does not know, or lacks.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_pipelines.runner import DATAFLOW, dataflow_flags, local_options, new_pipeline

    check_known(flags, PipelineOptions)
    if runner is None:
        return local_options(workers, flags)
    if workers is not None:
        raise UserError("Option --workers", "none with --runner", str(workers), "Use Beam's own.")
    if runner == DATAFLOW:
        flags = dataflow_flags(flags, manual_dir=manual_dir, data_dir=data_dir)
    options = PipelineOptions([f"--runner={runner}", *flags])
    new_pipeline(options)  # what the runner finds fault with is said before anything is touched
    return options


def check_known(flags: Sequence[str], options: type) -> None:
    """Refuses flags that none of Beam's groups of options declares.

    Args:
      flags: as on a command line.
      options: Beam's `PipelineOptions`.

    Raises:
      UserError: flags that Beam does not know, or values that it does not take.
    """
    parser = _Refusing(add_help=False, allow_abbrev=False)
    for each in options.__subclasses__():
        # Each group of options declares its own; two declare one of the same name.
        group = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        each._add_argparse_args(group)
        known = {name for action in parser._actions for name in action.option_strings}
        for action in group._actions:
            if not known.intersection(action.option_strings):
                parser._add_action(action)
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        raise UserError(
            "Command line",
            "options of laser-jnd build, or of Apache Beam",
            " ".join(unknown),
            "See laser-jnd build --help.",
        )
