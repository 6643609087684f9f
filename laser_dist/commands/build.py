"""`laser-jnd build`: build a TensorFlow dataset from a labeled dataset's files."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.datasets import (
    CONFIGS,
    FILE_FORMATS,
    MAX_REJECT_RATE,
    VIDEOSET,
    choose_config,
    is_built,
    set_aside,
    summary,
)
from laser_dist.commands.options import add_workers, positive_number, rate, size
from laser_dist.commands.terminal import Show, Terminal
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_pipelines.inputs.inventory import Inventory
    from tfds_builders.jnd_dataset import JndBuilder

HELP = "build a dataset of frame pairs and its quality table"
EXAMPLE = """\
examples:
  laser-jnd build videoset_jnd --manual-dir runs/videoset --data-dir runs/data
  laser-jnd build videoset_jnd --manual-dir ~/VideoSet --data-dir runs/data --config 720p --dry-run
  laser-jnd build mcl_jci_jnd --manual-dir ~/MCL-JCI --data-dir runs/data
  laser-jnd build videoset_jnd --manual-dir gs://mine/VideoSet --data-dir gs://mine/data \\
    --config 1080p --runner DataflowRunner --project mine --region europe-west4 \\
    --sdk_container_image europe-docker.pkg.dev/mine/images/laser-jnd

All of Apache Beam's own options may follow: those of the runner, of gs:// and s3://.
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A dataset that is asked for.

    Attributes:
      dataset: one of `CONFIGS`.
      manual_dir: of clips and labels; path or URL.
      data_dir: where datasets are kept; path or URL.
      config: one of the dataset's; None for the one that the files ask for.
      changes: of the configuration's settings, by name.
      file_format: of the examples.
      max_reject_rate: largest share of the sources that may be lost or lose a clip.
      runner: Beam's; None for this machine.
      workers: processes on this machine; None for one a core.
      flags: Beam's own options.
      overwrite: build anew whatever lies there.
      replace_other: build anew if what lies there was built from other input.
    """

    dataset: str
    manual_dir: str
    data_dir: str
    config: str | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    file_format: str = FILE_FORMATS[0]
    max_reject_rate: float = MAX_REJECT_RATE
    runner: str | None = None
    workers: int | None = None
    flags: tuple[str, ...] = ()
    overwrite: bool = False
    replace_other: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an order comes to, once its files have been looked at.

    Attributes:
      order: with the configuration chosen.
      builder: of the dataset.
      folder: of the dataset's version; path or URL.
      inventory: of clips and labels, with all rejects known by name.
      options: of Beam.
    """

    order: Order
    builder: JndBuilder
    folder: str
    inventory: Inventory
    options: PipelineOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.allow_abbrev = False  # Beam's options are theirs, however they begin
    parser.add_argument("dataset", choices=tuple(CONFIGS), help="dataset to build")
    parser.add_argument(
        "--manual-dir",
        required=True,
        metavar="PLACE",
        help="clips and labels: a folder or a gs:// or s3:// URL, archives in it included",
    )
    parser.add_argument(
        "--data-dir",
        default=str(Path("runs") / "data"),
        metavar="PLACE",
        help="where datasets are kept (default: %(default)s)",
    )
    names = "; ".join(f"{dataset}: {', '.join(found)}" for dataset, found in CONFIGS.items())
    parser.add_argument(
        "--config", metavar="NAME", help=f"{names} (default: the one that the files ask for)"
    )
    parser.add_argument(
        "--level-definition",
        choices=("jnd", "mean"),
        help="what a level of VideoSet is: the tables' column jnd (default), or the samples' mean",
    )
    frames = parser.add_mutually_exclusive_group()
    frames.add_argument(
        "--frames-per-second",
        type=positive_number,
        metavar="F",
        help="frames taken of each clip (default: 1; of the synthetic dataset 15)",
    )
    frames.add_argument("--all-frames", action="store_true", help="take every frame")
    parser.add_argument(
        "--frame-size",
        type=size,
        metavar="WxH",
        help="of the frames in the examples (default: 640x352; of synthetic datasets their own)",
    )
    parser.add_argument(
        "--file-format",
        choices=FILE_FORMATS,
        default=FILE_FORMATS[0],
        help="of the examples (default: %(default)s)",
    )
    parser.add_argument(
        "--max-reject-rate",
        type=rate,
        default=MAX_REJECT_RATE,
        metavar="SHARE",
        help="of the sources that may be lost or lose a clip (default: %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="tell what would be done, and do none of it"
    )
    parser.add_argument(
        "--runner", metavar="NAME", help="Beam's, such as DataflowRunner (default: this machine)"
    )
    add_workers(parser, "one per core")
    parser.add_argument("--overwrite", action="store_true", help="build anew what is there")


def run(arguments: argparse.Namespace) -> None:
    """Builds the dataset, finds it built, or tells what it would take."""
    order, terminal = order_of(arguments), Terminal()
    if arguments.dry_run:
        from laser_dist.commands.build_plan import tell_plan

        tell_plan(terminal, _look_at(order, terminal))
        return
    found = _look_at(order, terminal)
    from laser_dist.storage import is_url

    folder = build_or_reuse(terminal, found)
    if not is_url(folder):
        terminal.say(f"Next: laser-jnd train mj-lat --preset tiny --dataset {folder}")


def _look_at(order: Order, terminal: Terminal) -> Found:
    with terminal.progress() as show:
        show("looking at the files; archives are read through once")
        return look_at(order, on_start=partial(logger.info, "  Reading archives as %s"))


def order_of(arguments: argparse.Namespace) -> Order:
    """The command line as an order.

    Raises:
      UserError: options that do not go with the dataset.
    """
    dataset = arguments.dataset
    if arguments.config is not None and arguments.config not in CONFIGS[dataset]:
        raise UserError(
            f"Configuration of {dataset}",
            f"one of {', '.join(CONFIGS[dataset])}",
            arguments.config,
            "Name one with --config.",
        )
    changes: dict[str, Any] = {}
    if arguments.all_frames:
        changes["frames_per_second"] = None
    elif arguments.frames_per_second is not None:
        changes["frames_per_second"] = arguments.frames_per_second
    if arguments.level_definition is not None:
        changes["level_definition"] = arguments.level_definition
    if changes and dataset != VIDEOSET:
        raise UserError(
            f"Options for {dataset}",
            "none of --frames-per-second, --all-frames, --level-definition: it holds still images",
            ", ".join(changes),
            "Leave them out; --config chooses what a level is.",
        )
    if arguments.frame_size is not None:
        changes["model_width"], changes["model_height"] = arguments.frame_size
    return Order(
        dataset=dataset,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
        config=arguments.config,
        changes=tuple(changes.items()),
        file_format=arguments.file_format,
        max_reject_rate=arguments.max_reject_rate,
        runner=arguments.runner,
        workers=arguments.workers,
        flags=tuple(arguments.beam_flags),
        overwrite=arguments.overwrite,
    )


def look_at(order: Order, on_start: Callable[[str], None] = lambda job: None) -> Found:
    """What would be built, told by names and labels.

    Args:
      order: what is asked for.
      on_start: called with the name of the job that reads archives, where it runs elsewhere.

    Raises:
      UserError: no such folder, no clips and labels in it, or options that Beam does not know.
    """
    from laser_dist.commands.beam_flags import pipeline_options

    options = pipeline_options(
        order.runner,
        order.flags,
        workers=order.workers,
        manual_dir=order.manual_dir,
        data_dir=order.data_dir,
    )
    from beam_pipelines.dataset.places import archives_folder
    from beam_pipelines.inputs.archive_index import find_files
    from laser_dist.storage import join

    files, lost = find_files(order.manual_dir, archives_folder(order.data_dir), options, on_start)
    order = replace(order, config=order.config or choose_config(order.dataset, files))
    builder = make_builder(order)
    config = builder.builder_config
    assert config is not None
    version = str(builder.version)
    return Found(
        order=order,
        builder=builder,
        folder=join(order.data_dir, order.dataset, config.name, version),
        inventory=builder.inventory_of(files, lost, order.manual_dir),
        options=options,
    )


def make_builder(order: Order) -> JndBuilder:
    """The TFDS builder of an order whose configuration is chosen.

    Raises:
      UserError: as `derived_config`.
    """
    import tempfile
    import uuid

    import tensorflow_datasets as tfds

    import tfds_builders as tfds_builders  # registers the builders
    from laser_dist.storage import is_url
    from tfds_builders.jnd_config import derived_config

    data_dir = order.data_dir
    if is_url(data_dir):
        # TFDS looks for an earlier build here; what lies in a bucket is for Beam to read.
        data_dir = str(Path(tempfile.gettempdir()) / f"laser-jnd-{uuid.uuid4().hex}")
    builder_class: Any = tfds.builder_cls(order.dataset)
    assert order.config is not None
    config: Any = builder_class.builder_configs[order.config]
    changed = derived_config(config, dict(order.changes))
    # TFDS wants its own configurations by their names.
    named = config.name if changed.name == config.name else changed
    return builder_class(data_dir=data_dir, config=named)


def build_or_reuse(terminal: Terminal, found: Found) -> str:
    """Builds a dataset unless the same one lies there, and tells what there is.

    Args:
      terminal: to speak to.
      found: as `look_at` gives it.

    Returns:
      The dataset's folder.

    Raises:
      UserError: a dataset of other input lies there, or too much of the input cannot be used.
    """
    order, folder = found.order, found.folder
    fingerprint = found.builder.fingerprint(found.inventory)
    is_there = not order.overwrite and is_built(
        folder,
        fingerprint,
        order.file_format,
        order.manual_dir,
        replace_other=order.replace_other,
    )
    if is_there:
        terminal.say(f"  Reused {folder}: built from files of the same names and sizes.")
    else:
        with terminal.progress() as show:
            show("starting")
            _build(found, show)
    terminal.pairs(summary(folder))
    return folder


def _build(found: Found, show: Show) -> None:
    import tensorflow_datasets as tfds

    from beam_pipelines.dataset.places import places_of
    from beam_pipelines.progress import finished_sources, watch_progress
    from laser_dist.storage import is_url
    from tfds_builders.jnd_dataset import BuildRequest

    order = found.order
    request = BuildRequest(
        manual_dir=order.manual_dir,
        inventory=found.inventory,
        options=found.options,
        max_reject_rate=order.max_reject_rate,
        on_start=partial(logger.info, "  Running as %s"),
    )
    if is_url(order.data_dir):
        found.builder.request = request
        found.builder.prepare_at(found.folder, order.file_format)
        return
    count = partial(finished_sources, Path(places_of(found.folder).work))
    report = partial(show, "sources measured and paired")
    total = len(found.inventory.sources)
    with set_aside(Path(found.folder)), watch_progress(count, total, report):
        builder = make_builder(order)  # the one that was found holds what is set aside
        builder.request = request
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints that it downloads
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                file_format=order.file_format,
            )
