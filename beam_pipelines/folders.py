"""Folders that are complete or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laser_dist.errors import UserError


def unfinished_folder(folder: Path) -> Path:
    """Where the work toward `folder` is done; hidden, so that no search takes it for whole."""
    return folder.with_name(f".{folder.name}.unfinished")


@contextmanager
def complete_folder(folder: Path, *, marker: str) -> Iterator[Path]:
    """Gives a folder to work in that takes its final name only when the work has succeeded.

    One process at a time may work toward a folder.

    Args:
      folder: final name. What stands there is replaced at the end, by two renames, provided it is
        empty or holds `marker`: nobody's other files are ever removed.
      marker: name of a file that all folders of this kind hold.

    Yields:
      The unfinished folder beside it, empty. It is removed if the work fails.

    Raises:
      UserError: the place cannot be written, or holds something else.
    """
    folder = folder.absolute()
    _refuse_foreign(folder, marker)
    unfinished = unfinished_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield unfinished
        _replace(folder, unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _refuse_foreign(folder: Path, marker: str) -> None:
    try:
        is_ours = not folder.exists() or (folder / marker).exists() or not any(folder.iterdir())
    except OSError as error:  # a file in place of the folder, or one that must not be read
        raise _cannot_write(folder, error) from error
    if not is_ours:
        raise UserError(
            f"Output folder {folder}",
            f"a new or empty folder, or one with {marker} in it",
            "other files",
            "Name another.",
        )


def _replace(folder: Path, unfinished: Path) -> None:
    """Puts the finished folder in place; the one before is removed only after that."""
    before = folder.with_name(f".{folder.name}.before")
    try:
        shutil.rmtree(before, ignore_errors=True)
        if folder.exists():
            folder.rename(before)
        unfinished.rename(folder)
    except OSError as error:
        if before.exists() and not folder.exists():
            before.rename(folder)
        raise _cannot_write(folder, error) from error
    shutil.rmtree(before, ignore_errors=True)


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"Output folder {folder}",
        "a place that can be written",
        error.strerror or str(error),
        "Free it or name another.",
    )
