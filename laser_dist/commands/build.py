"""`laser-jnd build`: VideoSet's folder, or a miniature's, becomes a TensorFlow dataset."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import add_workers
from laser_dist.commands.quiet import quiet
from laser_dist.commands.wording import count_text, counting, notes, size_text
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from beam_pipelines.videoset_files import Inventory
    from laser_dist.commands.terminal import Terminal

HELP = "build the dataset of frame pairs and the quality table"
EXAMPLE = """\
examples:
  laser-jnd build videoset_jnd --manual-dir runs/videoset --data-dir runs/data
  laser-jnd build videoset_jnd --manual-dir ~/VideoSet --data-dir runs/data --config 720p
"""
DATASET = "videoset_jnd"
RESOLUTIONS = {
    "miniature": "256x144",
    "360p": "640x360",
    "540p": "960x540",
    "720p": "1280x720",
    "1080p": "1920x1080",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("dataset", choices=(DATASET,), help="dataset to build")
    parser.add_argument(
        "--manual-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with the coded clips and the label tables, or a miniature",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("runs") / "data",
        metavar="DIR",
        help="where datasets are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--config",
        choices=tuple(RESOLUTIONS),
        help="which resolution (default: the one whose label tables are there, 360p if several)",
    )
    add_workers(parser, "one per core")
    parser.add_argument("--overwrite", action="store_true", help="build anew what is there")


def run(arguments: argparse.Namespace) -> None:
    """Builds the dataset, or finds it built."""
    config = arguments.config or choose_config(arguments.manual_dir)
    inventory = look_at(arguments.manual_dir, config)
    with quiet(arguments.data_dir / "build.log", debug=arguments.debug) as terminal:
        folder = build_or_reuse(
            terminal,
            arguments.manual_dir,
            arguments.data_dir,
            config,
            inventory,
            workers=arguments.workers,
            overwrite=arguments.overwrite,
        )
        terminal.say(f"Next: laser-jnd train mj-lat --preset demo --dataset {folder}")


def choose_config(manual_dir: Path) -> str:
    """The configuration whose label tables lie in a folder; 360p where that leaves a choice."""
    from laser_dist.jnd.labels import label_file_name
    from laser_dist.jnd.layout import is_hidden

    found = [
        config
        for config, resolution in RESOLUTIONS.items()
        if not all(
            is_hidden(path, manual_dir) for path in manual_dir.rglob(label_file_name(resolution, 0))
        )
    ]
    return found[0] if len(found) == 1 else "360p"


def look_at(manual_dir: Path, config: str) -> Inventory:
    """What would be built.

    Raises:
      UserError: no such folder, or no clips and labels of that resolution in it.
    """
    from beam_pipelines.videoset_files import take_inventory

    return take_inventory(manual_dir, RESOLUTIONS[config])


def build_or_reuse(
    terminal: Terminal,
    manual_dir: Path,
    data_dir: Path,
    config: str,
    inventory: Inventory,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    replace_other: bool = False,
) -> Path:
    """Builds a dataset unless the same one lies there, and tells what there is.

    Args:
      terminal: to speak to.
      manual_dir: of clips and labels.
      data_dir: where datasets are kept.
      config: of the builder.
      inventory: of `manual_dir`.
      workers: processes; one per core if None.
      overwrite: build anew whatever lies there.
      replace_other: build anew if what lies there was built from other input.

    Returns:
      The dataset's folder.

    Raises:
      UserError: a dataset of other input lies there, or too much of the input cannot be used.
    """
    with terminal.live_line() as show:
        show("loading the libraries")
        import tensorflow_datasets as tfds

        import tfds_builders as tfds_builders  # registers the builder
        from beam_pipelines.progress import finished_sources, watch_progress

        name = f"{DATASET}/{config}"
        folder = Path(tfds.builder(name, data_dir=data_dir).data_path)
        if not overwrite and _is_built(folder, inventory.fingerprint, manual_dir, replace_other):
            terminal.say(f"  Reused: {folder} is there, built from the same clips and labels.")
        else:
            report = counting(show, "sources measured and paired")
            count = partial(finished_sources, data_dir, name)
            total = len(inventory.sources)
            with set_aside(folder), watch_progress(count, total, report):
                _build(name, manual_dir, data_dir, workers)
    terminal.facts(summary(folder))
    return folder


def _is_built(folder: Path, fingerprint: str, manual_dir: Path, replace_other: bool) -> bool:
    if not folder.exists():
        return False
    try:
        check_same(folder, read_metadata(folder), fingerprint, manual_dir)
    except UserError:
        if replace_other:
            return False
        raise
    return True


def _build(name: str, manual_dir: Path, data_dir: Path, workers: int | None) -> None:
    import tensorflow_datasets as tfds

    from beam_pipelines.runner import local_options

    tfds.builder(name, data_dir=data_dir).download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir, beam_options=local_options(workers), try_download_gcs=False
        )
    )


@contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Moves what is at a place out of the way; back if the block fails, else it is removed."""
    aside = folder.parent / f".{folder.name}.replaced"
    if aside.exists() and not folder.exists():  # an earlier block was killed
        aside.rename(folder)
    if not folder.exists():
        yield
        return
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a prepared dataset says of itself.

    Raises:
      UserError: it says nothing that can be read.
    """
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text())
        return {**metadata, "fingerprint": str(metadata["fingerprint"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Dataset {folder}",
            "metadata.json with a fingerprint",
            f"{type(error).__name__}: {error}",
            "Build it anew with --overwrite.",
        ) from error


def check_same(folder: Path, metadata: dict[str, Any], fingerprint: str, manual_dir: Path) -> None:
    """Refuses to take a dataset of other input for the one that is asked for.

    Raises:
      UserError: the fingerprints differ.
    """
    if metadata["fingerprint"] != fingerprint:
        raise UserError(
            f"Dataset {folder}",
            f"the one of {manual_dir} (fingerprint {fingerprint})",
            f"one of other clips or labels ({metadata['fingerprint']})",
            "Replace it with --overwrite, or name another --data-dir.",
        )


def summary(folder: Path) -> list[tuple[str, str]]:
    """What a prepared dataset holds: (name, value) for people."""
    import tensorflow_datasets as tfds

    from beam_pipelines.rejects_table import REJECTS_FILE, read_rejects

    builder = tfds.builder_from_directory(folder)
    metadata = read_metadata(folder)
    rejects, _ = read_rejects(folder / REJECTS_FILE)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    frame = f"{metadata['model_width']}x{metadata['model_height']}"
    return [
        *(
            (
                split,
                f"{count_text(info.num_examples, 'frame')} of {frame}, from "
                + count_text(len(metadata["splits"][split]), "source"),
            )
            for split, info in builder.info.splits.items()
        ),
        ("rejects", notes(map(str, rejects))),
        ("repairs", notes(metadata["repairs"])),
        ("viewers", "SIMULATED" if metadata["simulated"] else "people"),
        ("size", size_text(size)),
        ("where", str(folder)),
    ]
