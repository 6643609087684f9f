"""Finds what a command is pointed at."""

from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.jnd.layout import is_hidden

DATASET_INFO = "dataset_info.json"
_DEPTHS = ("*", "*/*", "*/*/*")  # version; config/version; name/config/version


def find_dataset(folder: Path) -> Path:
    """The folder of a prepared dataset, named itself or by a folder up to three levels above.

    Raises:
      UserError: no such folder, or not exactly one dataset in it.
    """
    if (folder / DATASET_INFO).is_file():
        return folder
    found = sorted(
        info.parent
        for depth in _DEPTHS
        for info in folder.glob(f"{depth}/{DATASET_INFO}")
        if not is_hidden(info, folder)
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
        "Build one: laser-jnd build --help tells how.",
    )
