"""Files of a prepared dataset, at a local path or behind a URL: no bucket needs to be mounted.

Local files are read by the system's own calls; what is behind a URL through pyarrow, which asks for
just the bytes that are wanted.
"""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from laser_dist.errors import UserError

SCHEMES = ("gs", "s3")
# Of this machine's disk, where what is read is written to it.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Google's client would try for 15 minutes where there are no rights or no network.
_GIVE_UP_S = 30


class Readable(Protocol):
    """A file to be read at any position, by any number of threads."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """So many bytes from there; fewer at the file's end."""
        ...


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL, not a path."""
    return "://" in str(location)


def below(location: str | Path, *parts: str) -> str:
    """A place below a folder, with the options that a URL ends in."""
    folder, mark, options = str(location).partition("?" if is_url(location) else "\0")
    return "/".join((folder.rstrip("/"), *parts)) + mark + options


class Folder:
    """A folder, local or behind a URL.

    Attributes:
      location: path or URL. A URL may end in options of the store, as pyarrow takes them:
        `s3://bucket/data?endpoint_override=HOST:PORT`.
    """

    def __init__(self, location: str | Path) -> None:
        """Reads nothing yet.

        Raises:
          UserError: a kind of URL that cannot be read.
        """
        self.location = str(location)
        scheme = self.location.partition("://")[0]
        if is_url(location) and scheme not in SCHEMES:
            expected = " or ".join(f"{each}://" for each in SCHEMES)
            raise UserError(
                f"Place {location}", f"a path, {expected}", f"{scheme}://", "Copy it to one."
            )

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
          FileNotFoundError: there is none.
          UserError: a bucket that is not there or cannot be read.
        """
        if not is_url(self.location):
            return (Path(self.location) / name).read_bytes()
        file = self.open(name)
        return file.read_at(0, file.size)

    def open(self, name: str) -> Readable:
        """A file to read from.

        Raises:
          FileNotFoundError: there is none.
          UserError: a bucket that is not there or cannot be read.
        """
        if not is_url(self.location):
            return LocalFile(Path(self.location) / name)
        with told_to_user(self.location):
            filesystem, root = self.filesystem
            return RemoteFile(below(self.location, name), filesystem, f"{root}/{name}")

    def has(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
          UserError: a bucket that is not there or cannot be read.
        """
        if not is_url(self.location):
            return (Path(self.location) / name).is_file()
        with told_to_user(self.location):
            filesystem, root = self.filesystem
            return bool(filesystem.get_file_info(f"{root}/{name}").is_file)

    def folders(self) -> list[str]:
        """Names of the folders in it, sorted; none if there is no such folder.

        Raises:
          UserError: a bucket that is not there or cannot be read.
        """
        if not is_url(self.location):
            return sorted(each.name for each in Path(self.location).glob("*") if each.is_dir())
        self.check_bucket()
        with told_to_user(self.location):
            found = listed(*self.filesystem)
        return [name for name, is_folder in found.items() if is_folder]

    def check_bucket(self) -> None:
        """Looks whether a URL's bucket is there: listing what is not there gives nothing.

        Raises:
          UserError: it is not, or it cannot be read.
        """
        from pyarrow.fs import FileType

        with told_to_user(self.location):
            filesystem, root = self.filesystem
            if filesystem.get_file_info(root.partition("/")[0]).type == FileType.NotFound:
                raise OSError("no such bucket")

    @cached_property
    def filesystem(self) -> tuple[Any, str]:
        """Of a URL: pyarrow's file system, and the folder's path there."""
        from pyarrow.fs import FileSystem

        place, _, options = self.location.partition("?")
        values = dict(parse_qsl(options))
        if place.startswith("gs://"):
            values.setdefault("retry_limit_seconds", str(_GIVE_UP_S))
        url = f"{place}?{urlencode(values)}" if values else place
        with told_to_user(self.location):
            filesystem, path = FileSystem.from_uri(url)
        return filesystem, path.rstrip("/")


def listed(filesystem: Any, path: str) -> dict[str, bool]:
    """Names in a folder of a bucket, sorted, and whether each is a folder; none if it is missing.

    GCS has no folders, and pyarrow tells there of those alone that it made itself. So all objects
    below are listed, and a name that others go on from is a folder's.
    """
    from pyarrow.fs import FileSelector, FileType

    flat = filesystem.type_name == "gcs"
    found: dict[str, bool] = {}
    for each in filesystem.get_file_info(FileSelector(path, allow_not_found=True, recursive=flat)):
        name, mark, _ = each.path.removeprefix(f"{path}/").partition("/")
        found[name] = found.get(name, False) or bool(mark) or each.type == FileType.Directory
    return dict(sorted(found.items()))


class LocalFile:
    """A file on a disk; open while it is read alone, as a split may have a thousand of them."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.size = path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """As `Readable.read_at`."""
        descriptor = os.open(self.name, os.O_RDONLY)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)


class RemoteFile:
    """A file behind a URL; each reading is a request for these bytes alone."""

    def __init__(self, name: str, filesystem: Any, path: str) -> None:
        self.name = name
        self._filesystem, self._path = filesystem, path
        self._lock = threading.Lock()
        self._opened: Any = None
        self.size = int(self._stream().size())

    def read_at(self, offset: int, length: int) -> bytes:
        """As `Readable.read_at`.

        Raises:
          UserError: it cannot be read any more.
        """
        with told_to_user(self.name):
            return self._stream().read_at(min(length, max(self.size - offset, 0)), offset)

    def _stream(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = self._filesystem.open_input_file(self._path)
            return self._opened


@contextmanager
def told_to_user(place: str) -> Iterator[None]:
    """Turns what a store says, but that a file is not there, into one line for the user."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's own errors are of one of these kinds
        text = " ".join(str(error).split())
        if isinstance(error, FileNotFoundError):
            raise
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise UserError(
            f"Place {place}",
            "a bucket or folder that can be read",
            text,
            "Check its name and your credentials.",
        ) from error
