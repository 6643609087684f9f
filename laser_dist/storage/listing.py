"""Lists of files, and reading of listed files: only what was listed is read.

Errors of buckets are those of `files`.
"""

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NoReturn

from laser_dist.errors import UserError
from laser_dist.storage.buckets import in_bucket, infos
from laser_dist.storage.files import open_binary
from laser_dist.storage.limits import limit
from laser_dist.storage.locations import StoredFile, is_url, join
from laser_dist.storage.retries import reason

MAX_FILES = limit("MAX_FILES", 1_000_000)
"""Largest number of files in a listed folder and the folders in it."""
MAX_FOLDER_DEPTH = 100
"""Largest number of folders inside one another, in a listed folder on a disk."""
_NUM_BUCKET_NAMES = 3  # "gs:", "" and the bucket, before the first folder in it


def list_files(root: str | Path) -> list[StoredFile]:
    """Return all files below a folder, sorted by location, without hidden files and folders.

    Links to folders are followed, each folder once.

    Raises:
      UserError: the folder or bucket does not exist or cannot be read, or has more than
        `MAX_FILES` files or more than `MAX_FOLDER_DEPTH` folders inside one another.
    """
    files = _list_bucket(str(root)) if is_url(root) else _list_local(Path(root))
    found = list(islice(files, MAX_FILES + 1))
    if len(found) > MAX_FILES:
        raise UserError(f"{root} has more than {MAX_FILES:,} files.", hint="Name a smaller folder.")
    return sorted(found)


def is_pattern(location: str) -> bool:
    """Return whether a path or URL has one of the wildcards of `match_files`.

    A `?` in a URL starts its options.
    """
    wildcards = "*[" if is_url(location) else "*[?"
    return any(char in wildcards for char in _without_options(location))


def match_files(pattern: str) -> list[str]:
    """Return the files that a pattern matches, sorted, without hidden files and folders.

    Args:
      pattern: path or URL with wildcards as in a shell: `*` and `[...]`, and in a path also `?`,
        stand for characters of one name, and a name `**` for any number of folders.

    Raises:
      UserError: as for `list_files`, of the folder before the first wildcard.
    """
    place = _without_options(pattern)
    names = place.split("/")
    first = next(number for number, name in enumerate(names) if is_pattern(name))
    if is_url(pattern) and first < _NUM_BUCKET_NAMES:
        raise UserError(f"The bucket of {pattern} has a wildcard.", hint="Name one bucket.")
    # The options of a URL stay at its end.
    root = ("/".join(names[:first]) or ("/" if first else ".")) + pattern[len(place) :]
    found = [_name_below(root, file.location) for file in list_files(root)]
    matched = [name for name in found if _matches(name.split("/"), names[first:])]
    return [join(root, name) for name in matched] if first else matched


def open_listed(file: StoredFile) -> IO[bytes]:
    """Open a file, or the archive that it is in, for reading, if it is the one that was listed.

    Raises:
      UserError: it has changed since; or as for `open_binary`.
    """
    check_unchanged(file)
    try:
        return open_binary(file.location)
    except FileNotFoundError as error:
        raise _changed(file, "was removed") from error


def read_listed(file: StoredFile) -> bytes:
    """Return the content of a file that was listed, and is no member of an archive.

    It never takes more memory than the listed size. Errors as for `open_listed`.
    """
    with open_listed(file) as opened:
        content = opened.read(file.size + 1)
    check_unchanged(file)
    if len(content) != file.size:
        raise _changed(file)
    return content


def check_unchanged(file: StoredFile) -> None:
    """Check that a file, or the archive that it is in, has the listed size and time.

    Raises:
      UserError: it has changed since, or was removed; or the bucket cannot be read.
    """
    size, mtime_ns = _size_and_time(file)
    # A bucket's list can state fractions of a second that a single answer about the file omits.
    unit = 10**9 if is_url(file.location) else 1
    is_same_time = (
        None in (file.mtime_ns, mtime_ns) or (file.mtime_ns or 0) // unit == (mtime_ns or 0) // unit
    )
    if size != (file.archive_size if file.member else file.size) or not is_same_time:
        raise _changed(file)


def _without_options(location: str) -> str:
    return location.partition("?")[0] if is_url(location) else location


def _name_below(root: str, location: str) -> str:
    if is_url(root):
        return _without_options(location).removeprefix(f"{_without_options(root)}/")
    return os.path.relpath(location, root)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        rest = patterns[1:] or ["*"]
        return any(_matches(names[start:], rest) for start in range(len(names)))
    return (
        bool(names)
        and fnmatch.fnmatchcase(names[0], patterns[0])
        and _matches(names[1:], patterns[1:])
    )


def _size_and_time(file: StoredFile) -> tuple[int, int | None]:
    if is_url(file.location):
        info = in_bucket(file.location, lambda files, path: files.get_file_info(path))
        if info.is_file:
            return info.size, info.mtime_ns
        raise _changed(file, "was removed")
    try:
        status = os.stat(file.location)
    except FileNotFoundError as error:
        raise _changed(file, "was removed") from error
    except OSError as error:
        raise UserError(
            f"{file.location} cannot be read: {reason(error)}.",
            hint="Fix the problem, then run the command again.",
        ) from error
    return status.st_size, status.st_mtime_ns


def _changed(file: StoredFile, what: str = "changed") -> UserError:
    return UserError(
        f"{file.location} {what} while the dataset was built.",
        hint="Run the command again when no other program writes to it.",
    )


def _list_bucket(root: str) -> Iterator[StoredFile]:
    for info, name in infos(root, recursive=True):
        if info.is_file and not any(part.startswith(".") for part in name.split("/")):
            yield StoredFile(join(root, name), size=info.size, mtime_ns=info.mtime_ns)


def _list_local(root: Path) -> Iterator[StoredFile]:
    # Not `Path.is_dir`, which raises for a name that is too long.
    if not os.path.isdir(root):
        problem = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"Folder {root} {problem}.", hint="Check the path.")

    def refuse(error: OSError) -> NoReturn:  # `os.walk` itself would leave the folder out
        raise UserError(
            f"{error.filename} cannot be read: {reason(error)}.", hint="Check its permissions."
        ) from error

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        # It calls itself for each folder.
        if len(Path(folder).parts) - len(root.parts) > MAX_FOLDER_DEPTH:
            raise UserError(
                f"Folder {root} has more than {MAX_FOLDER_DEPTH} folders inside one another.",
                hint="Move the files up, or name a folder further down.",
            )
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of several ways to a folder the same one is always taken.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to nothing
                    continue
                refuse(error)
            if stat.S_ISREG(status.st_mode):
                yield StoredFile(path, size=status.st_size, mtime_ns=status.st_mtime_ns)
