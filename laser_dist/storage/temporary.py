"""Folders that are ours to remove, and do not outlive a killed process for long."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.storage.files import becoming
from laser_dist.storage.retries import reason

_PREFIX = "laser-jnd-"
_open: set[Path] = set()
LOCK = ".lock"  # marks a folder as ours; locked while its process runs


@contextmanager
def temporary_folder(base: Path | None = None) -> Iterator[Path]:
    """Yield a new folder of mode 0700, and remove it after the block.

    Folders of this user's processes that were killed are removed first.

    Args:
      base: folder to create it in; None takes the system's temporary directory.

    Raises:
      UserError: no folder can be created.
    """
    try:
        where = base or Path(tempfile.gettempdir())
        remove_abandoned(where, f"{_PREFIX}*")
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
    except OSError as error:
        what = f" in {base}" if base else ""
        hint = "Name another folder" if base else "Set TMPDIR to a folder"
        raise UserError(
            f"Cannot create a temporary folder{what}: {reason(error)}.",
            hint=f"{hint} with free space that you can write.",
        ) from error
    _open.add(folder)
    try:
        with marked(folder):
            yield folder
    finally:
        _remove(folder)


@contextmanager
def output_path(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder next to `path`; what is written there becomes `path`.

    Use it for a file that takes long to write: what a killed process has left of it is removed by
    the next one that writes into the same folder. After `atomic_path`, a hidden file would stay.

    Raises:
      UserError: the folder cannot be written.
      OSError: the disk cannot be written; it names `path`.
    """
    with contextlib.suppress(FileExistsError):  # a file, which the next line reports
        path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent) as folder, becoming(folder / path.name, path) as unfinished:
        yield unfinished


def remove_open_folders() -> None:
    """Remove the folders of this process, before it exits without leaving their blocks."""
    for folder in list(_open):
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _open.discard(folder)


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Mark a folder as ours, so that `remove_abandoned` removes it if this process is killed."""
    with (folder / f"{LOCK}.new").open("x") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, folder / LOCK)  # no other process finds it unlocked
        yield  # noqa: RUF075 - a folder whose block fails stays marked
        (folder / LOCK).unlink(missing_ok=True)


def remove_abandoned(base: Path, pattern: str) -> None:
    """Remove folders that this user's killed processes have marked.

    Args:
      base: folder that they are in.
      pattern: glob pattern of their names.
    """
    for folder in base.glob(pattern):
        # A link, or a folder that another user has made or can change, is not ours.
        with contextlib.suppress(OSError):
            status = folder.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            if is_ours and not status.st_mode & 0o022:
                with (folder / LOCK).open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
