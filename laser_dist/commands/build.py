"""`laser-jnd build`: build a TensorFlow dataset from a labeled dataset's files."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from laser_dist.commands.beam_options import check_workers
from laser_dist.commands.build_plan import print_plan
from laser_dist.commands.build_request import BuildOptions, ResolvedBuild, make_builder, resolve
from laser_dist.commands.datasets import (
    CONFIGS,
    MAX_REJECT_RATE,
    VIDEOSET,
    is_built,
    summary,
)
from laser_dist.commands.options import add_workers, positive_number, rate, size
from laser_dist.commands.terminal import Show, Terminal
from laser_dist.errors import UserError, nearest
from laser_dist.wording import count_text

if TYPE_CHECKING:
    from beam_pipelines.elements import LabeledSource

HELP = "build a dataset of frame pairs and its quality table"
EXAMPLE = """\
examples:
  laser-jnd build videoset_jnd --manual-dir runs/videoset --data-dir runs/data
  laser-jnd build videoset_jnd --manual-dir ~/VideoSet --data-dir runs/data --config 720p --dry-run
  laser-jnd build mcl_jci_jnd --manual-dir ~/MCL-JCI --data-dir runs/data
  laser-jnd build videoset_jnd --manual-dir gs://mine/VideoSet --data-dir gs://mine/data \\
    --config 1080p --runner DataflowRunner --project mine --region europe-west4 \\
    --sdk_container_image europe-docker.pkg.dev/mine/images/laser-jnd

All Apache Beam options are accepted too, including those of its runners.
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.allow_abbrev = False  # an abbreviation could be an option of Beam
    parser.add_argument("dataset", choices=tuple(CONFIGS), help="dataset to build")
    parser.add_argument(
        "--manual-dir",
        required=True,
        metavar="PATH_OR_URL",
        help="folder or bucket (gs://, s3://) of clips and labels; archives can stay packed",
    )
    parser.add_argument(
        "--data-dir",
        default=str(Path("runs") / "data"),
        metavar="PATH_OR_URL",
        help="folder or bucket (gs://, s3://) for prepared datasets (default: %(default)s)",
    )
    names = "; ".join(f"{', '.join(found)} for {dataset}" for dataset, found in CONFIGS.items())
    parser.add_argument(
        "--config",
        metavar="NAME",
        help=f"configuration: {names} (default: the one that fits the files)",
    )
    parser.add_argument(
        "--level-definition",
        choices=("jnd", "mean"),
        help="value of a VideoSet level: column jnd of the label tables (default), or the mean of "
        "the samples",
    )
    parser.add_argument(
        "--split-by",
        choices=("film", "source"),
        help="group that splits of VideoSet keep together: the clips of one film (default), or of "
        "one source, to compare with the literature",
    )
    frames = parser.add_mutually_exclusive_group()
    frames.add_argument(
        "--frames-per-second",
        type=positive_number,
        metavar="F",
        help="number of frames per second of a clip (default: 1; 15 for synthetic clips)",
    )
    frames.add_argument("--all-frames", action="store_true", help="use every frame")
    parser.add_argument(
        "--frame-size",
        type=size,
        metavar="WxH",
        help="size of the examples' frames (default: 640x352; 256x144 for synthetic datasets)",
    )
    parser.add_argument(
        "--max-reject-rate",
        type=rate,
        default=MAX_REJECT_RATE,
        metavar="R",
        help="largest share of sources that may be lost or lack a clip (default: %(default)s)",
    )
    parser.add_argument(
        "--sources",
        action="append",
        metavar="PATTERN",
        help="build only sources whose ids match a pattern such as 'videoSRC00*'; can be repeated",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the build would do and cost, without building",
    )
    parser.add_argument(
        "--runner", metavar="NAME", help="Beam runner, such as DataflowRunner (default: local)"
    )
    add_workers(parser, "one per core, if memory allows")
    parser.add_argument(
        "--finish",
        default="",
        metavar="JOB",
        help="wait for a Dataflow job whose command was stopped, and complete its dataset; give "
        "the other options of that command too",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")


def run(arguments: argparse.Namespace) -> None:
    """Build the dataset, reuse it, or print what a build would do."""
    options, terminal = options_of(arguments), Terminal()
    with terminal.progress() as show:
        show("listing the files; each .tar.gz is scanned once")
        resolved = resolve(options, on_start=partial(logger.info, "  Indexing archives as %s"))
    if arguments.dry_run:
        print_plan(terminal, resolved)
        return
    folder = build_or_reuse(terminal, resolved)
    if "://" not in folder:
        terminal.say(f"Next: laser-jnd train mj-lat --preset tiny --dataset {folder}")


def options_of(arguments: argparse.Namespace) -> BuildOptions:
    """Check the command line and return its options.

    Raises:
      UserError: an unknown configuration, or options that do not apply; all problems at once.
    """
    dataset, config = arguments.dataset, arguments.config
    problems: list[str] = []
    hints: list[str] = []
    if config is not None and config not in CONFIGS[dataset]:
        names = CONFIGS[dataset]
        problems.append(f"{dataset} has no configuration {config}, only {', '.join(names)}.")
        hints.append(nearest(config, names))
    changes: dict[str, Any] = {}
    clip_options = {
        "--frames-per-second": arguments.frames_per_second is not None,
        "--all-frames": arguments.all_frames,
        "--level-definition": arguments.level_definition is not None,
        "--split-by": arguments.split_by is not None,
    }
    given = [name for name, is_given in clip_options.items() if is_given]
    if given and dataset != VIDEOSET:
        problems.append(f"{', '.join(given)} can be used with {VIDEOSET} only.")
        hints.append("Choose the level definition of MCL-JCI with --config.")
    problems += check_workers(arguments.runner, arguments.workers)
    if arguments.finish and arguments.runner != "DataflowRunner":
        problems.append("--finish needs --runner DataflowRunner.")
    if arguments.all_frames:
        changes["frames_per_second"] = None
    elif arguments.frames_per_second is not None:
        changes["frames_per_second"] = arguments.frames_per_second
    for name in ("level_definition", "split_by"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.frame_size is not None:
        from laser_dist.video.containers import MIN_SIZE

        changes["model_width"], changes["model_height"] = arguments.frame_size
        if min(arguments.frame_size) < MIN_SIZE:
            problems.append(f"--frame-size must be at least {MIN_SIZE}x{MIN_SIZE}.")
    if problems:
        raise UserError(" ".join(problems), hint=" ".join(filter(None, hints)))
    return BuildOptions(
        dataset=dataset,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
        config=config,
        changes=tuple(changes.items()),
        max_reject_rate=arguments.max_reject_rate,
        runner=arguments.runner,
        workers=arguments.workers,
        flags=tuple(arguments.beam_flags),
        finish=arguments.finish,
        overwrite=arguments.overwrite,
        sources=tuple(arguments.sources or ()),
    )


def build_or_reuse(terminal: Terminal, resolved: ResolvedBuild) -> str:
    """Build a dataset unless the same one exists, and print a summary.

    Args:
      terminal: where to print.
      resolved: the build.

    Returns:
      The dataset's folder, a path or URL.

    Raises:
      UserError: the folder holds a dataset of other input, or too much of the input is unusable.
    """
    options, folder = resolved.options, resolved.folder
    fingerprint = resolved.builder.input_fingerprint(resolved.inventory)
    is_there = not options.overwrite and is_built(
        folder,
        fingerprint,
        options.manual_dir,
        replace_other=options.replace_other,
    )
    if is_there:
        logger.info("  Reused %s: built from files with the same names and sizes.", folder)
        if newer := modified_since(folder, resolved.inventory.sources):
            logger.warning(
                "%s changed after the dataset was built, the first is %s. If the content is another"
                " one, build again with --overwrite.",
                count_text(len(newer), "file"),
                newer[0],
            )
    else:
        with terminal.progress() as show:
            show("starting")
            _build(resolved, show)
    terminal.pairs(summary(folder))
    return folder


def modified_since(folder: str, sources: Sequence[LabeledSource]) -> list[str]:
    """Return the clips that were modified after a dataset was built.

    Members of zip files are left out: their checksums are part of the fingerprint.

    Args:
      folder: folder of the dataset's version, a path or URL.
      sources: sources of the same names and sizes as at the time.
    """
    from laser_dist.storage import list_files

    (built_ns,) = (
        file.mtime_ns
        for file in list_files(folder)
        if PurePosixPath(file.name).name == "dataset_info.json"
    )
    files = [file for source in sources for _, file in source.clips]
    files += [source.original for source in sources if source.original is not None]
    return [
        file.location
        for file in files
        if file.crc is None and (file.mtime_ns or 0) > (built_ns or math.inf)
    ]


def _build(resolved: ResolvedBuild, show: Show) -> None:
    import tensorflow_datasets as tfds

    from beam_pipelines.dataset.pipeline import BuildLocations, num_measured
    from laser_dist.storage import is_url, set_aside
    from tfds_builders.jnd_dataset import BuildRequest

    options, folder = resolved.options, resolved.folder
    total, work = len(resolved.inventory.sources), Path(BuildLocations.of(folder).work)
    request = BuildRequest(
        manual_dir=options.manual_dir,
        inventory=resolved.inventory,
        options=resolved.beam_options,
        max_reject_rate=options.max_reject_rate,
        job=options.finish,
        on_start=partial(logger.info, "  Waiting for %s" if options.finish else "  Running as %s"),
        on_poll=lambda: show("sources measured and paired", min(num_measured(work), total), total),
    )
    if is_url(options.data_dir):
        resolved.builder.request = request
        resolved.builder.prepare_at(folder)
        return
    with set_aside(Path(folder)):
        builder = make_builder(options)  # the resolved one has loaded what is set aside
        builder.request = request
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints that it downloads
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
