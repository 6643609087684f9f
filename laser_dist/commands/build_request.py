"""What a build is asked for, and what that resolves to once the files are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.beam_options import runner_options
from laser_dist.commands.datasets import MAX_REJECT_RATE, choose_config

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
    beam_options = runner_options(
        "build",
        runner=options.runner,
        workers=options.workers,
        flags=options.flags,
        inputs={"--manual-dir": options.manual_dir},
        output=("--data-dir", options.data_dir),
    )
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
