"""Finds prepared datasets by name or folder."""

from __future__ import annotations

import re
from pathlib import Path

from laser_dist.errors import UserError, nearest
from laser_dist.storage import exists, is_url, join, list_folder

DATASET_INFO = "dataset_info.json"
_DEPTHS = ("*", "*/*", "*/*/*")  # version; config/version; name/config/version
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_BUILD = "Build one; see `laser-jnd help build`."


def find_dataset(dataset: str | Path, data_dir: str | None = None) -> str:
    """Return the location of a prepared dataset.

    Args:
      dataset: its folder or URL; without `data_dir` also a folder up to three levels above it.
      data_dir: folder or URL below which `dataset` is NAME/CONFIG[/VERSION].

    Raises:
      UserError: there is no such folder, it does not hold exactly one dataset, or the bucket cannot
        be read.
    """
    if data_dir is not None:
        return _named_dataset(str(dataset), data_dir)
    if not is_url(dataset):
        return str(_only_dataset(Path(dataset)))
    if exists(join(dataset, DATASET_INFO)):
        return str(dataset)
    raise UserError(
        f"{dataset} is not a prepared dataset: it has no {DATASET_INFO}.",
        hint="Name the folder of a version, or NAME/CONFIG with --data-dir.",
    )


def _named_dataset(name: str, data_dir: str) -> str:
    """Return the newest version of NAME/CONFIG below a data dir, or the version that is named."""
    location = join(data_dir, *name.strip("/").split("/"))
    if exists(join(location, DATASET_INFO)):
        return location
    names = [each for each, is_folder in list_folder(location).items() if is_folder]
    versions = [each for each in names if _VERSION.fullmatch(each)]
    for version in sorted(versions, key=lambda each: [*map(int, each.split("."))], reverse=True):
        # The metadata are written last: a version without them is incomplete.
        if exists(join(location, version, DATASET_INFO)):
            return join(location, version)
    message = f"{data_dir} holds no prepared dataset {name}."
    if names:
        message += f" Below that name it has {', '.join(names)}."
    *above, last = name.strip("/").split("/")
    known = list_folder(join(data_dir, *above))
    raise UserError(message, hint=nearest(last, known) or _BUILD)


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
        raise UserError(
            f"{folder} holds several datasets: {names}.", hint="Name one of them with --dataset."
        )
    if not folder.is_dir():
        raise UserError(f"Dataset folder {folder} does not exist.", hint=_BUILD)
    raise UserError(f"{folder} holds no prepared dataset.", hint=_BUILD)
