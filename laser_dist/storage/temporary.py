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

_PREFIX = "laser-jnd-"
LOCK = ".lock"  # marks a folder as ours; locked while its process runs


@contextmanager
def temporary_folder(base: Path | None = None) -> Iterator[Path]:
    """Yield a new folder of mode 0700, and remove it after the block.

    Folders of this user's processes that were killed are removed first.

    Args:
      base: folder to create it in; None takes the system's temporary directory.
    """
    base = base or Path(tempfile.gettempdir())
    _remove_abandoned(base)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    try:
        with (folder / f"{LOCK}.new").open("x") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, folder / LOCK)  # no other process finds it unlocked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
