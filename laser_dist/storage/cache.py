"""The user's cache directory, which no other user can prepare or change.

Other users of a machine can create any name in the system's temporary directory, and links in it,
before we do. So copies that a later command reads again are below the user's own cache directory.
"""

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.storage.retries import reason

NAME = "laser-jnd"
_TAG = "CACHEDIR.TAG"
# With this line, backup programs skip the folder: https://bford.info/cachedir/
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Local copies that laser-jnd made.\n"
_HINT = "Move it away, or set XDG_CACHE_HOME to another folder."


def cache_folder(*names: str) -> Path:
    """Return a folder of the cache, as `own_folder`.

    The cache is `laser-jnd` below `$XDG_CACHE_HOME`, or below `~/.cache`. We create it with mode
    0700 and mark it, so no other user reaches it, and anything in it may be deleted.

    Raises:
      UserError: as for `own_folder`, or other users can enter or replace the cache, or it has files
        of another program.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not base.is_absolute():
        raise UserError(
            f"Cache directory {base} is not an absolute path.",
            hint="Set XDG_CACHE_HOME to another folder.",
        )
    root = own_folder(base, NAME)
    mode, parent = root.stat().st_mode, base.stat().st_mode
    if mode & 0o077 or (parent & stat.S_IWOTH and not parent & stat.S_ISVTX):
        raise UserError(
            f"Folder {root} is open to other users.",
            hint=f"Run `chmod 700 {root}`, or set XDG_CACHE_HOME to another folder.",
        )
    tag = root / _TAG
    if not tag.is_file():
        if any(path.name != _TAG for path in root.iterdir()):
            raise UserError(f"Folder {root} has files of another program.", hint=_HINT)
        tag.write_text(_TAG_TEXT)
    return own_folder(root, *names)


def own_folder(parent: Path, *names: str) -> Path:
    """Return a folder of this user's; missing ones are created, with mode 0700.

    Args:
      parent: existing or new folder, whose owner does not matter.
      names: of the folder, and before it those that it is in, below `parent`.

    Raises:
      UserError: the folder cannot be created, or one of `names` is a link or of another user.
    """
    path = parent
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            path /= name
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                what = "belongs to another user" if path.is_dir() else "is no folder"
                what = "is a link" if path.is_symlink() else what
                raise UserError(f"Folder {path} cannot be used: it {what}.", hint=_HINT)
    except OSError as error:
        raise UserError(
            f"Cannot create folder {path}: {reason(error)}.",
            hint="Set XDG_CACHE_HOME to a folder that you can write.",
        ) from error
    return path


def is_copy(path: Path, version: str) -> bool:
    """Return whether a file is what `record_copy` recorded for a version of the original."""
    try:
        return _record(path).read_text() == f"{version} {file_hash(path)}"
    except (OSError, ValueError):
        return False


def record_copy(path: Path, version: str) -> None:
    """Record next to a file that its content is a copy of this version of the original."""
    _record(path).write_text(f"{version} {file_hash(path)}")


def _record(path: Path) -> Path:
    return path.with_name(f".{path.name}.copy")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
