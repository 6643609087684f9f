"""Reading, writing, listing and removing files, local or in a bucket.

All functions take a path or a URL. A URL may end in options as pyarrow takes them, such as
`s3://bucket/data?endpoint_override=HOST:PORT`. Credentials come from the environment.

In a bucket, a transient error is retried for five minutes. What then still fails, or cannot succeed
(an unknown bucket, no permission), is a `UserError`. A missing file is a `FileNotFoundError`.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode

from laser_dist.errors import UserError
from laser_dist.storage.locations import StoredFile, is_url, join
from laser_dist.storage.retries import is_transient, reason, retrying

T = TypeVar("T")

MARK = ".laser-jnd"  # in folders that we have made and may remove
SCHEMES = ("gs", "s3")
MAX_FOLDER_DEPTH = 100
"""Largest number of folders inside one another, in a listed folder on a disk."""
# Google's client retries by itself, by default for 15 minutes.
_GOOGLE_RETRIES_S = 10
_CHECK_BUCKET = "Check the bucket's name and your credentials."
_CHUNK_BYTES = 8 << 20
_READ_AHEAD_BYTES = 4 << 20
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|Bucket '[^']*' not found")


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

    return _in_bucket(location, read)


def open_random(location: str | Path) -> RandomAccessFile:
    """Open a file for reads at any position; errors as for `read_bytes`."""
    return _BucketFile(str(location)) if is_url(location) else LocalFile(Path(location))


def open_binary(location: str | Path) -> IO[bytes]:
    """Open a file for reading, seekable; errors as for `read_bytes`."""
    if not is_url(location):
        return Path(location).open("rb")
    return io.BufferedReader(Stream(_BucketFile(str(location))), _READ_AHEAD_BYTES)


def open_regular(
    path: Path, *, max_bytes: int, hint: str, error: type[UserError] = UserError
) -> BinaryIO:
    """Open a local file that may come from anyone.

    Args:
      path: of a regular file; a pipe could block for ever, and a device has no size.
      max_bytes: largest size.
      hint: hint of the errors.
      error: class of the errors.

    Raises:
      UserError: as `error`: the file is missing, cannot be opened, is not regular or is too large.
      OSError: the disk failed; another attempt may succeed.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as failed:
        if is_transient(failed):
            raise
        missing = isinstance(failed, FileNotFoundError)
        problem = f"{path} does not exist." if missing else f"Cannot open {path}: {reason(failed)}."
        raise error(problem, hint) from failed
    status = os.fstat(descriptor)
    problem = too_large(str(path), status.st_size, max_bytes)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        problem = f"{path} is {kind}."
    if problem:
        os.close(descriptor)
        raise error(problem, hint)
    return open(descriptor, "rb")


def limit(name: str, default: int) -> int:
    """Return a limit of input: the environment variable `LASER_JND_{name}`, or the default.

    Raises:
      UserError: the variable is not a positive integer.
    """
    variable = f"LASER_JND_{name}"
    text = os.environ.get(variable, str(default))
    if not re.fullmatch(r"[1-9]\d{0,17}", text, re.ASCII):
        raise UserError(
            f"{variable} must be a positive integer, not {text}.", hint=f"Default: {default}."
        )
    return int(text)


MAX_FILES = limit("MAX_FILES", 1_000_000)
"""Largest number of files in a listed folder and the folders in it."""


def too_large(name: str, size: int, max_bytes: int) -> str:
    """Return a sentence about a file above its limit; "" if it is not."""
    return f"{name} has {size:,} bytes; the limit is {max_bytes:,}." if size > max_bytes else ""


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


def _size_and_time(file: StoredFile) -> tuple[int, int | None]:
    if is_url(file.location):
        info = _in_bucket(file.location, lambda files, path: files.get_file_info(path))
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

    _in_bucket(location, write, writes=True)


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
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.unfinished{path.suffix}")
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
        _in_bucket(location, copy, writes=True)


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

    return _in_bucket(location, copy)


def version(location: str | Path) -> str:
    """Return a text that is another one after a file in a bucket was replaced; "" if it is missing.

    It has the file's size and the time at which it was written.
    """
    return _in_bucket(location, lambda files, path: _version_of(files.get_file_info(path)))


def exists(location: str | Path) -> bool:
    """Return whether there is a file (or, on a disk, a folder).

    Raises:
      UserError: the bucket cannot be read.
    """
    if not is_url(location):
        return Path(location).exists()
    return _in_bucket(location, lambda files, path: files.get_file_info(path).is_file)


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
    for info, name in _infos(str(location), recursive=str(location).startswith("gs://")):
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

    _in_bucket(location, delete)


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
        self.size: int = _in_bucket(location, lambda *place: self._open(*place).size())

    def read_at(self, offset: int, length: int) -> bytes:
        """Return some of its bytes, as `RandomAccessFile.read_at`."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        return _in_bucket(self.name, lambda *place: self._open(*place).read_at(length, offset))

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


def _in_bucket(location: str | Path, work: Callable[[Any, str], T], *, writes: bool = False) -> T:
    """Return what `work` returns, given pyarrow's file system and the path in it; with retries."""
    bucket_url, path = _parts(str(location))
    try:
        return retrying(lambda: work(_filesystem(bucket_url, os.getpid()), path), str(location))
    except FileNotFoundError as error:
        if writes:  # only the bucket itself can be missing
            raise _no_bucket(location) from error
        raise FileNotFoundError(error.errno, "No such file", str(location)) from error
    except (OSError, ValueError) as error:  # pyarrow's own errors are one of these
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the local disk
        if _NO_BUCKET.search(str(error)):
            raise _no_bucket(location) from error
        is_passing = isinstance(error, OSError) and is_transient(error)
        hint = "Check the network, then run the command again." if is_passing else _CHECK_BUCKET
        raise UserError(f"Cannot access {location}: {reason(error)}.", hint=hint) from error


def _no_bucket(location: str | Path) -> UserError:
    return UserError(f"The bucket of {location} does not exist.", hint=_CHECK_BUCKET)


def _parts(url: str) -> tuple[str, str]:
    """Return the URL of the bucket, options included, and the path in it as pyarrow takes it."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise UserError(
            f"{url} is a URL of an unsupported kind.", hint="Use gs://, s3:// or a local path."
        )
    path, _, options = rest.partition("?")
    values = dict(parse_qsl(options))
    if scheme == "gs":
        values.setdefault("retry_limit_seconds", str(_GOOGLE_RETRIES_S))
    authority, _, key = path.partition("/")
    bucket = authority.rpartition("@")[2]
    url = f"{scheme}://{authority}" + (f"?{urlencode(values)}" if values else "")
    return url, f"{bucket}/{key}".rstrip("/")


@lru_cache(maxsize=64)
def _filesystem(bucket_url: str, _process_id: int) -> Any:
    """Return pyarrow's file system of a bucket: one for each process, as forks cannot share it."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(bucket_url)[0]


def _version_of(info: Any) -> str:
    return f"{info.size} {info.mtime_ns}" if info.is_file else ""


def _infos(location: str, *, recursive: bool) -> list[tuple[Any, str]]:
    """Return pyarrow's description of each file and folder below a folder, and its name there."""

    def find(files: Any, path: str) -> list[tuple[Any, str]]:
        from pyarrow.fs import FileSelector, FileType

        found = files.get_file_info(FileSelector(path, allow_not_found=True, recursive=recursive))
        bucket = path.partition("/")[0]
        # Where nothing is found there may be no bucket.
        if not found and files.get_file_info(bucket).type == FileType.NotFound:
            raise _no_bucket(location)
        return [(info, info.path[len(path) + 1 :].strip("/")) for info in found]

    return [each for each in _in_bucket(location, find) if each[1]]


def _list_bucket(root: str) -> Iterator[StoredFile]:
    for info, name in _infos(root, recursive=True):
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
