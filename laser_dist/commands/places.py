"""Finds what a command is pointed at."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from laser_dist.errors import UserError

DATASET_INFO = "dataset_info.json"
_DEPTHS = ("*", "*/*", "*/*/*")  # version; config/version; name/config/version
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_BUILD = "Build one: laser-jnd build --help tells how."


def add_dataset(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    """Declares `--dataset` and `--data-dir`, of which `find_dataset` makes a place."""
    parser.add_argument(
        "--dataset",
        required=required,
        metavar="PLACE",
        help=f"{what}: its folder, the --data-dir of a build that holds just one, or with "
        "--data-dir NAME/CONFIG[/VERSION] below that",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder or bucket (gs://, s3://) of prepared datasets; the newest version is taken "
        "unless --dataset names one",
    )


def find_dataset(dataset: str | Path, data_dir: str | None = None) -> str:
    """The place of a prepared dataset, path or URL.

    Args:
      dataset: its folder or URL; without `data_dir` also a folder up to three levels above it.
      data_dir: folder or URL below which `dataset` is NAME/CONFIG[/VERSION].

    Raises:
      UserError: no such folder, not exactly one dataset in it, or a bucket that cannot be read.
    """
    from laser_dist.training.storage.store import Folder, is_url

    if data_dir is not None:
        return _named_dataset(str(dataset), data_dir)
    if not is_url(dataset):
        return str(_only_dataset(Path(dataset)))
    if Folder(dataset).has(DATASET_INFO):
        return str(dataset)
    raise UserError(
        f"Dataset {dataset}",
        f"a prepared dataset ({DATASET_INFO})",
        "none",
        "Name a version's folder, or NAME/CONFIG with --data-dir.",
    )


def _named_dataset(name: str, data_dir: str) -> str:
    """The newest version of NAME/CONFIG below a data dir, or the version that is named."""
    from laser_dist.training.storage.store import Folder, below

    place = below(data_dir, *name.strip("/").split("/"))
    folder = Folder(place)
    if folder.has(DATASET_INFO):
        return place
    names = folder.folders()
    versions = [each for each in names if _VERSION.fullmatch(each)]
    for version in sorted(versions, key=lambda each: [*map(int, each.split("."))], reverse=True):
        # The metadata are written last: a version without them is being built, or never was.
        if Folder(below(place, version)).has(DATASET_INFO):
            return below(place, version)
    raise UserError(
        f"Dataset {name} in {data_dir}",
        "a prepared dataset, NAME/CONFIG[/VERSION]",
        f"no version of it, but {', '.join(names)}" if names else "none",
        _BUILD,
    )


def _only_dataset(folder: Path) -> Path:
    if (folder / DATASET_INFO).is_file():
        return folder
    found = sorted(
        info.parent
        for depth in _DEPTHS
        for info in folder.glob(f"{depth}/{DATASET_INFO}")
        if not any(part.startswith(".") for part in info.relative_to(folder).parts)
    )
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise UserError(f"Dataset {folder}", "one dataset", names, "Name one of them.")
    raise UserError(
        f"Dataset {folder}",
        "a prepared dataset",
        "none in it" if folder.is_dir() else "no such folder",
        _BUILD,
    )
