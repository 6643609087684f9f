"""Temporary folders that only this user can enter, and that do not outlive a killed process."""

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
        base = base or Path(tempfile.gettempdir())
        _remove_abandoned(base)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    except OSError as error:
        raise UserError(
            f"Cannot create a temporary folder: {reason(error)}.",
            hint="Set TMPDIR to a folder with free space that you can write.",
        ) from error
    _open.add(folder)
    try:
        with (folder / f"{LOCK}.new").open("x") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, folder / LOCK)  # no other process finds it unlocked
            yield folder
    finally:
        _remove(folder)


def remove_open_folders() -> None:
    """Remove the folders of this process, before it exits without leaving their blocks."""
    for folder in list(_open):
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _open.discard(folder)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        # A link, or a folder that another user has made or can change, is not ours.
        with contextlib.suppress(OSError):
            status = folder.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            if is_ours and not status.st_mode & 0o077:
                with (folder / LOCK).open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
