"""Reading, writing and removing files, local or in a bucket.

All functions take a path or a URL. A URL may end in options as pyarrow takes them, such as
`s3://bucket/data?endpoint_override=HOST:PORT`. Credentials come from the environment.

In a bucket, a transient error is retried for five minutes. What then still fails, or cannot succeed
(an unknown bucket, no permission), is a `UserError`. A missing file is a `FileNotFoundError`.
"""

import contextlib
import errno
import io
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from laser_dist.errors import UserError
from laser_dist.storage.buckets import in_bucket, infos
from laser_dist.storage.locations import is_url, join
from laser_dist.storage.retries import reason

MARK = ".laser-jnd"  # in folders that we have made and may remove
_CHUNK_BYTES = 8 << 20
_READ_AHEAD_BYTES = 4 << 20


class RandomAccessFile(Protocol):
    """A file that any number of threads can read at any position."""

    @property
    def name(self) -> str:
        """Path or URL."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on; fewer at the end of the file."""
        ...


def read_bytes(location: str | Path) -> bytes:
    """Return the content of a file.

    Raises:
      OSError: there is no such file, or the disk cannot be read.
      UserError: the bucket cannot be read.
    """
    if not is_url(location):
        return Path(location).read_bytes()

    def read(files: Any, path: str) -> bytes:
        # Without `compression=None`, pyarrow would unpack what ends in .gz.
        with files.open_input_stream(path, compression=None) as source:
            return source.read()

    return in_bucket(location, read)


def open_random(location: str | Path) -> RandomAccessFile:
    """Open a file for reads at any position; errors as for `read_bytes`."""
    return _BucketFile(str(location)) if is_url(location) else LocalFile(Path(location))


def open_binary(location: str | Path) -> IO[bytes]:
    """Open a file for reading, seekable; errors as for `read_bytes`."""
    if not is_url(location):
        return Path(location).open("rb")
    return io.BufferedReader(Stream(_BucketFile(str(location))), _READ_AHEAD_BYTES)


def write_bytes(location: str | Path, content: bytes) -> None:
    """Write a file, complete or absent; missing folders are created.

    Raises:
      OSError: the disk cannot be written.
      UserError: the bucket cannot be written.
    """
    if not is_url(location):
        with atomic_path(Path(location)) as unfinished:
            unfinished.write_bytes(content)
        return

    def write(files: Any, path: str) -> None:
        # In one call: closing the stream completes the object, however much of it was written.
        with files.open_output_stream(path, compression=None) as target:
            target.write(content)

    in_bucket(location, write, writes=True)


def write_text(location: str | Path, text: str) -> None:
    """Write a text file in UTF-8, as `write_bytes`."""
    write_bytes(location, text.encode())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path next to `path`, with its suffix; what is written there becomes `path`.

    If the block fails, `path` stays as it was. Several threads and processes may write one path
    at a time: the last one wins.

    Raises:
      OSError: the disk cannot be written; it names `path`.
    """
    name = f".{path.stem}.{uuid.uuid4().hex}.unfinished{path.suffix}"
    with becoming(path.with_name(name), path) as unfinished:
        yield unfinished


@contextmanager
def becoming(unfinished: Path, path: Path) -> Iterator[Path]:
    """Yield a path; rename what the block writes there, or remove it if the block fails.

    Raises:
      OSError: the disk cannot be written; it names `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        # A machine that loses power must not leave the name without the content.
        descriptor = os.open(unfinished, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(unfinished)):
            error.filename = str(path)
        raise


def check_not_removed(folder: str | Path) -> None:
    """Raise FileNotFoundError if a folder on a disk was removed, as a stopped command does.

    Call it before a thread writes into the folder, because writing would make the folder again.
    """
    if not is_url(folder) and not Path(folder).is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def upload(path: Path, location: str | Path) -> None:
    """Copy a local file to a location, complete or absent; errors as for `write_bytes`."""
    if not is_url(location):
        with atomic_path(Path(location)) as unfinished:
            shutil.copyfile(path, unfinished)
        return

    def copy(files: Any, key: str) -> None:
        import pyarrow as pa

        with (
            pa.memory_map(str(path)) as source,
            files.open_output_stream(key, compression=None) as target,
        ):
            target.write(source.read_buffer())

    if path.stat().st_size == 0:  # cannot be mapped
        write_bytes(location, b"")
    else:
        in_bucket(location, copy, writes=True)


def download(location: str | Path, path: Path) -> str:
    """Copy a file from a bucket to a local path, complete or absent.

    Returns:
      Its `version` before it was read; "" if there is no such file.
    """

    def copy(files: Any, key: str) -> str:
        info = files.get_file_info(key)
        if info.is_file:
            with (
                atomic_path(path) as unfinished,
                files.open_input_stream(key, compression=None) as source,
                unfinished.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, _CHUNK_BYTES)
        return _version_of(info)

    return in_bucket(location, copy)


def version(location: str | Path) -> str:
    """Return a text that is another one after a file in a bucket was replaced; "" if it is missing.

    It has the file's size and the time at which it was written.
    """
    return in_bucket(location, lambda files, path: _version_of(files.get_file_info(path)))


def _version_of(info: Any) -> str:
    return f"{info.size} {info.mtime_ns}" if info.is_file else ""


def exists(location: str | Path) -> bool:
    """Return whether there is a file (or, on a disk, a folder).

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_url(location):
        return Path(location).exists()
    return in_bucket(location, lambda files, path: files.get_file_info(path).is_file)


def list_folder(location: str | Path) -> dict[str, bool]:
    """Return the names in a folder, sorted, and whether each is a folder; {} if it is missing.

    Raises:
      UserError: the bucket does not exist or cannot be read.
    """
    if not is_url(location):
        folder = Path(location)
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return {path.name: path.is_dir() for path in paths}
    found: dict[str, bool] = {}
    # GCS has no folders, and pyarrow lists only those that it made itself. So all objects below are
    # listed there, and a folder is what names go on from.
    for info, name in infos(str(location), recursive=str(location).startswith("gs://")):
        first, mark, _ = name.partition("/")
        found[first] = found.get(first, False) or bool(mark) or not info.is_file
    return dict(sorted(found.items()))


def remove(location: str | Path) -> None:
    """Remove a file, or a folder with all its content; a missing one is no error.

    Of a link, only the link is removed.

    Raises:
      OSError: it is on the disk and cannot be removed.
      UserError: it is in a bucket and cannot be removed.
    """
    if not is_url(location):
        path = Path(location)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return

    def delete(files: Any, path: str) -> None:
        from pyarrow.fs import FileType

        kind = files.get_file_info(path).type
        if kind == FileType.File:
            files.delete_file(path)
            kind = files.get_file_info(path).type  # a bucket may have a folder of that name too
        if kind == FileType.Directory:
            # In GCS a folder is gone with its last object.
            with contextlib.suppress(FileNotFoundError):
                files.delete_dir(path)

    in_bucket(location, delete)


def mark_folder(folder: str | Path) -> None:
    """Mark a new or empty folder as ours, so that we may remove it whatever is in it then.

    Raises:
      UserError: it has files and no mark.
    """
    mark = join(folder, MARK)
    if exists(mark):
        return
    if list_folder(folder):
        raise UserError(
            f"{folder} is in the way: it has files that laser-jnd did not write.",
            hint="Move it away, then run the command again.",
        )
    write_bytes(mark, b"")


@contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Move a folder that we made aside for a block; restore it if that fails, else remove it.

    Raises:
      UserError: the place for it has files that we did not write.
    """
    aside = folder.parent / f".{folder.name}.replaced"
    if aside.exists() and not folder.exists():  # an earlier process was killed
        aside.rename(folder)
        (folder / MARK).unlink(missing_ok=True)
    if not folder.exists():
        yield
        return
    if aside.exists():
        mark_folder(aside)
        remove(aside)
    (folder / MARK).touch()
    folder.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        (folder / MARK).unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        remove(aside)


def check_writable(folder: str | Path) -> None:
    """Check before hours of work that their result can be stored, by writing a small file.

    Raises:
      UserError: nothing can be written there.
    """
    probe = join(folder, f".writable-{uuid.uuid4().hex}")
    try:
        write_bytes(probe, b"")
        remove(probe)
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {reason(error)}.",
            hint="Check its path and permissions, or choose another location.",
        ) from error


class LocalFile:
    """A file on a disk, opened for each read only: a split may have a thousand files."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.size = path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return some of its bytes, as `RandomAccessFile.read_at`."""
        descriptor = os.open(self.name, os.O_RDONLY)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)


class _BucketFile:
    """A file in a bucket; each read is a request for these bytes only."""

    def __init__(self, location: str) -> None:
        self.name = location
        self._lock = threading.Lock()
        self._opened: Any = None
        self.size: int = in_bucket(location, lambda *place: self._open(*place).size())

    def read_at(self, offset: int, length: int) -> bytes:
        """Return some of its bytes, as `RandomAccessFile.read_at`."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        return in_bucket(self.name, lambda *place: self._open(*place).read_at(length, offset))

    def _open(self, files: Any, path: str) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = files.open_input_file(path)
            return self._opened


class Stream(io.RawIOBase):
    """A `RandomAccessFile` as an unbuffered binary stream."""

    def __init__(self, file: RandomAccessFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position and return it."""
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into a buffer and return how many."""
        content = self._file.read_at(self._position, len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
