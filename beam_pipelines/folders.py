"""Folders that are complete or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laser_dist.errors import UserError


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to work in that takes its final name only when the work has succeeded.

    Args:
      folder: final name; what stands there is replaced at the end, in one rename.

    Yields:
      The unfinished folder beside it, empty. It is removed if the work fails.

    Raises:
      UserError: the place cannot be written.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    except OSError as error:
        raise UserError(
            f"Output folder {folder}",
            "a place that can be written",
            error.strerror or str(error),
            "Free it or name another.",
        ) from error
    try:
        yield unfinished
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
