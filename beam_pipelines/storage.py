"""Files by place, a path or a URL: on a disk, or wherever Beam's file systems reach (gs://, s3://).

Beam is imported only for a URL: a process that reads a local disk does not pay for it.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from laser_dist.errors import UserError

_EXTRAS = {"gs": "gcp", "s3": "aws"}
# Objects are never written through a growing buffer: Beam's writer sends whole parts.
_COPY_BYTES = 1 << 24


@dataclass(frozen=True, order=True)
class StoredFile:
    """A file that is there, by itself or as a member of an archive.

    Attributes:
      place: path or URL; of the archive, if it is in one.
      member: name inside the archive; empty for a file by itself.
      size: in bytes, of the file itself.
      modified_s: of `place`, in seconds since 1970; 0 where the store does not say.
      offset: where the file begins in the unpacked archive, in bytes.
      index: place of the archive's index, if it takes one to reach `offset`.
    """

    place: str
    member: str = ""
    size: int = 0
    modified_s: float = 0.0
    offset: int = 0
    index: str = ""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return (self.member or self.place).rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.place}:{self.member}" if self.member else self.place


def is_remote(place: str | Path) -> bool:
    """Whether a place is a URL that Beam reads, not a path."""
    return "://" in str(place)


def join(folder: str | Path, *parts: str) -> str:
    """A place below a folder."""
    return "/".join((str(folder).rstrip("/"), *parts)) if parts else str(folder)


def use_options(flags: Sequence[str]) -> None:
    """Tells Beam's file systems of its own options (project, credentials) in this process."""
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    FileSystems.set_options(PipelineOptions(list(flags)))


def list_files(root: str | Path) -> list[StoredFile]:
    """All files below a folder, by place; hidden ones and those in hidden folders are left out.

    Links to folders are followed, each folder once.

    Raises:
      UserError: no such folder or bucket, or one that cannot be read.
    """
    found = _list_remote(str(root)) if is_remote(root) else _list_local(Path(root))
    return sorted(found)


def read_bytes(place: str | Path) -> bytes:
    """A file's content.

    Raises:
      OSError: there is none, or it cannot be read.
    """
    if not is_remote(place):
        return Path(place).read_bytes()
    with _told_as_os_error(str(place)), open_binary(place) as file:
        return file.read()


def open_binary(place: str | Path) -> IO[bytes]:
    """A file for reading at any position.

    Raises:
      OSError: there is none, or it cannot be read.
    """
    if not is_remote(place):
        return Path(place).open("rb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    with _told_as_os_error(str(place)):
        return FileSystems.open(str(place), compression_type=CompressionTypes.UNCOMPRESSED)


def write_bytes(place: str | Path, content: bytes) -> None:
    """Writes a file, complete or absent; folders are made.

    Raises:
      OSError: it cannot be written.
    """
    if is_remote(place):
        with _told_as_os_error(str(place)), _create(str(place)) as file:
            file.write(content)
        return
    with _unfinished(Path(place)) as unfinished:
        unfinished.write_bytes(content)


def publish(path: Path, place: str | Path) -> None:
    """Moves a finished local file to its place, complete or absent; folders are made.

    Raises:
      OSError: it cannot be written.
    """
    if not is_remote(place):
        with _unfinished(Path(place)) as unfinished:
            shutil.move(path, unfinished)
        return
    with (
        path.open("rb") as source,
        _told_as_os_error(str(place)),
        _create(str(place)) as file,
    ):
        shutil.copyfileobj(source, file, _COPY_BYTES)
    path.unlink()


def check_writable(folder: str | Path) -> None:
    """Finds out before hours of work that their result could not be kept.

    Raises:
      UserError: nothing can be written below a URL; a disk is told of where it is written to.
    """
    if not is_remote(folder):
        return
    try:
        # Not empty: Beam sends S3 an object in parts, and S3 refuses one of no part.
        write_bytes(join(folder, ".begun"), b"begun")
        remove(join(folder, ".begun"))
    except OSError as error:
        raise UserError(
            f"Output folder {folder}",
            "a place that can be written",
            str(error),
            "Check the bucket's name and your credentials.",
        ) from error


def exists(place: str | Path) -> bool:
    """Whether there is a file (or, on a disk, a folder).

    Raises:
      OSError: the place cannot be looked at.
    """
    if not is_remote(place):
        return Path(place).exists()
    from apache_beam.io.filesystems import FileSystems

    with _told_as_os_error(str(place)):
        return FileSystems.exists(str(place))


def remove(place: str | Path) -> None:
    """Removes a file or a folder with all that is in it, if it is there.

    Raises:
      OSError: it cannot be removed.
      UserError: no such bucket, or one that cannot be read.
    """
    if not is_remote(place):
        path = Path(place)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    from apache_beam.io.filesystems import FileSystems

    found = [metadata.path for metadata in _matches(join(place, "**"))]
    if exists(place):
        found.append(str(place))
    if found:
        with _told_as_os_error(str(place)):
            FileSystems.delete(found)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A hidden place to write a file to, which then takes its name or is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two threads of a process may write one place at a time, and neither spoils the other's.
    owner = f"{os.getpid()}-{threading.get_ident()}"
    unfinished = path.with_name(f".{path.name}.{owner}.unfinished")
    try:
        yield unfinished
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _list_local(root: Path) -> Iterator[StoredFile]:
    if not root.is_dir():
        raise UserError(
            f"Folder {root}", "a folder", "a file" if root.exists() else "none", "Check the path."
        )

    def refuse(error: OSError) -> None:  # `os.walk` itself would leave the folder out
        raise UserError(
            f"Folder {error.filename}",
            "a folder that can be read",
            error.strerror or str(error),
            "Check its permissions.",
        ) from error

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # In order, so that it is always the same of several ways to a folder that is taken.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isfile(path):
                status = os.stat(path)
                yield StoredFile(path, size=status.st_size, modified_s=status.st_mtime)


def _list_remote(root: str) -> Iterator[StoredFile]:
    start = len(root.rstrip("/")) + 1
    for metadata in _matches(join(root, "**")):
        parts = metadata.path[start:].split("/")
        if not any(part.startswith(".") for part in parts) and parts[-1]:
            yield StoredFile(
                metadata.path,
                size=metadata.size_in_bytes,
                modified_s=metadata.last_updated_in_seconds or 0.0,
            )


def _matches(pattern: str) -> list:
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    place = pattern.removesuffix("/**")
    _check_kind(place)
    try:
        return list(FileSystems.match([pattern])[0].metadata_list)
    except BeamIOError as error:
        raise UserError(
            f"Place {place}",
            "a bucket or folder that can be read",
            _cause(error),
            "Check its name and your credentials.",
        ) from error


def _create(place: str) -> IO[bytes]:
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    # By its name alone Beam would compress what ends in .gz once more.
    return FileSystems.create(
        place,
        mime_type="application/octet-stream",
        compression_type=CompressionTypes.UNCOMPRESSED,
    )


def _check_kind(place: str) -> None:
    """Refuses a URL that Beam cannot read as it is installed."""
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    scheme = place.partition("://")[0]
    try:
        FileSystems.get_filesystem(place)
        # Without it Beam has s3:// all the same, and fails when it is used.
        is_there = scheme != "s3" or find_spec("boto3") is not None
    except (ValueError, BeamIOError):
        is_there = False
    if not is_there:
        extra = _EXTRAS.get(scheme)
        advice = f"Install laser-jnd[{extra}]." if extra else "Use gs://, s3:// or a path."
        raise UserError(f"Place {place}", "a kind of URL that can be read", f"{scheme}://", advice)


@contextmanager
def _told_as_os_error(place: str) -> Iterator[None]:
    """Turns what Beam and the stores' own libraries raise into the error that files have."""
    _check_kind(place)
    try:
        yield
    except _store_errors() as error:
        raise OSError(f"{place}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """What a store said, in one line: Beam wraps it in errors of its own."""
    while details := getattr(error, "exception_details", None):
        error = next(iter(details.values()))
        if not isinstance(error, Exception):  # a status
            break
    answer = getattr(error, "response", None)
    if answer is not None and not hasattr(error, "message"):  # an upload that was refused
        return f"the store answered {answer.status_code} {answer.reason}"
    return " ".join(str(error).split())


def _store_errors() -> tuple[type[Exception], ...]:
    """What Beam's file systems and the stores' libraries raise."""
    from apache_beam.io.aws.clients.s3.messages import S3ClientError
    from apache_beam.io.filesystem import BeamIOError

    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
    except ImportError:
        return BeamIOError, S3ClientError
    google = (GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse)
    return BeamIOError, S3ClientError, *google
