"""What a build is asked for, and what that resolves to once the files are known."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from laser_dist.commands.datasets import MAX_REJECT_RATE, choose_config
from laser_dist.errors import UserError, nearest

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_pipelines.inputs.inventory import Inventory
    from tfds_builders.jnd_dataset import JndBuilder


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of a build.

    Attributes:
      dataset: one of `datasets.CONFIGS`.
      manual_dir: folder of clips and labels, a path or URL.
      data_dir: folder of prepared datasets, a path or URL.
      config: one of the dataset's configurations; None to choose it from the files.
      changes: changed settings of the configuration, by name.
      max_reject_rate: largest accepted share of sources that are lost or lack a clip, in [0, 1].
      runner: name of the Beam runner; None for this machine.
      workers: number of processes on this machine; None to choose it by cores and free memory.
      flags: Beam options.
      finish: id of a Dataflow job to finish; empty to build.
      overwrite: replace an existing dataset.
      replace_other: replace an existing dataset that was built from other input.
      sources: shell patterns of source ids; empty for all sources.
    """

    dataset: str
    manual_dir: str
    data_dir: str
    config: str | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    max_reject_rate: float = MAX_REJECT_RATE
    runner: str | None = None
    workers: int | None = None
    flags: tuple[str, ...] = ()
    finish: str = ""
    overwrite: bool = False
    replace_other: bool = False
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ResolvedBuild:
    """A build whose files have been listed.

    Attributes:
      options: options, with the configuration chosen.
      builder: builder of the dataset.
      folder: folder of the dataset's version, a path or URL.
      inventory: clips and labels, with the rejects known from names and labels.
      beam_options: options of the Beam runner.
    """

    options: BuildOptions
    builder: JndBuilder
    folder: str
    inventory: Inventory
    beam_options: PipelineOptions


def resolve(
    options: BuildOptions, on_start: Callable[[str], None] = lambda job: None
) -> ResolvedBuild:
    """List and match the files of a build.

    Args:
      options: options of the build.
      on_start: called with the name of the job that indexes archives, if it runs elsewhere.

    Raises:
      UserError: invalid Beam options, no such folder, no clips and labels in it, or no such source.
    """
    beam_options = pipeline_options(options)
    from beam_pipelines.dataset.pipeline import archives_folder
    from beam_pipelines.inputs.archive_index import find_files
    from laser_dist.storage import join

    index_folder = archives_folder(options.data_dir)
    files, lost = find_files(options.manual_dir, index_folder, beam_options, on_start)
    options = replace(options, config=options.config or choose_config(options.dataset, files))
    builder = make_builder(options)
    config = builder.builder_config
    assert config is not None
    inventory = builder.inventory_of(files, lost, options.manual_dir)
    return ResolvedBuild(
        options=options,
        builder=builder,
        folder=join(options.data_dir, options.dataset, config.name, str(builder.version)),
        inventory=inventory.part_of(options.sources) if options.sources else inventory,
        beam_options=beam_options,
    )


def make_builder(options: BuildOptions) -> JndBuilder:
    """Return the TFDS builder of options whose configuration is chosen."""
    import tempfile
    import uuid

    import tensorflow_datasets as tfds

    import tfds_builders as tfds_builders  # registers the builders
    from laser_dist.storage import is_url
    from tfds_builders.jnd_config import derived_config

    data_dir = options.data_dir
    if is_url(data_dir):
        # TFDS looks for an earlier build here, but cannot read a bucket.
        data_dir = str(Path(tempfile.gettempdir()) / f"laser-jnd-{uuid.uuid4().hex}")
    builder_class: Any = tfds.builder_cls(options.dataset)
    assert options.config is not None
    config: Any = builder_class.builder_configs[options.config]
    changed = derived_config(config, dict(options.changes))
    # TFDS requires the names of its own configurations.
    named = config.name if changed.name == config.name else changed
    return builder_class(data_dir=data_dir, config=named)


class _BeamParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"Invalid Beam option: {message}.")


def pipeline_options(options: BuildOptions) -> PipelineOptions:
    """Return the options of the Beam runner.

    Raises:
      UserError: options that Beam does not know, or required ones that are missing.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_pipelines.runner import DATAFLOW, dataflow_flags, local_options, new_pipeline

    flags: Sequence[str] = options.flags
    check_known(flags, PipelineOptions)
    if options.runner is None:
        return local_options(options.workers, flags)
    if options.runner == DATAFLOW:
        flags = dataflow_flags(flags, manual_dir=options.manual_dir, data_dir=options.data_dir)
    beam_options = PipelineOptions([f"--runner={options.runner}", *flags])
    new_pipeline(beam_options)  # reports what the runner rejects before anything is read
    return beam_options


def check_known(flags: Sequence[str], options: type) -> None:
    """Check that Beam knows all flags.

    Args:
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
            f"Neither laser-jnd build nor Apache Beam accepts: {' '.join(unknown)}",
            hint=suggestion or "See `laser-jnd build --help`.",
        )
