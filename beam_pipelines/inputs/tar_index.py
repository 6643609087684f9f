"""Scans a `.tar.gz` once, for the index through which its members are read."""

import io
import json
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any

from beam_pipelines.inputs.archives import cannot_read, index_locations, unpacked
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage import StoredFile

_READ_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"


def index_tar(
    archive: StoredFile, index_folder: str, report: Callable[[str], None] = lambda step: None
) -> None:
    """Scan a `.tar.gz` and write the index of its members.

    The readable part of a damaged archive is indexed, and the damage is noted. If a checksum does
    not match, no member is indexed: any of them may be corrupt.

    Raises:
      UserError: the archive cannot be read at present; nothing is written.
    """
    try:
        opened = storage.open_binary(archive.location)
    except OSError as error:
        raise cannot_read(archive, error) from error
    with opened as file:
        checked = GzipCheck(file)
        with unpacked(checked) as content:
            members, fault = _scan_tar(content)
            points = _points_of(content) if members else b""
        try:
            checked.finish()
        except (OSError, UserError):
            assert checked.read_error is not None
    if checked.read_error is not None:
        raise cannot_read(archive, checked.read_error) from checked.read_error
    if checked.is_checksum:
        members = []
    if members and not points:
        members, fault = [], fault or "it cannot be indexed"
    points_location, listing_location = index_locations(archive, index_folder)
    storage.write_bytes(points_location, points)
    listing = json.dumps({"members": members, "fault": checked.fault or fault})
    storage.write_bytes(listing_location, listing.encode())


def _scan_tar(content: Any) -> tuple[list[dict[str, Any]], str]:
    """Return name, offset and size of each file up to the first fault, and the fault."""
    members: list[dict[str, Any]] = []
    try:
        with tarfile.open(fileobj=content, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    location = {"offset": member.offset_data, "size": member.size}
                    members.append({"name": member.name, **location})
            end = tar.offset
        # `tarfile` takes an invalid header for the end of the archive.
        content.seek(end)
        if content.read(tarfile.BLOCKSIZE).strip(b"\0"):
            return members, f"invalid header at byte {end}"
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        return members, str(error)
    return members, ""


def _points_of(content: Any) -> bytes:
    points = io.BytesIO()
    try:
        content.export_index(fileobj=points)
    except OSError:
        return b""
    return points.getvalue()


class GzipCheck:
    """File wrapper that verifies the checksums of a gzip file while something else reads it.

    `indexed_gzip` does not verify checksums where it restarts, and returns the readable part of a
    truncated stream without an error. A second, plain inflation of the same bytes takes CPU time,
    but no reading.

    Attributes:
      fault: what is wrong so far; empty if nothing.
      is_checksum: whether the fault is a checksum that does not match: some of the content is
        corrupt, and the position is unknown.
      read_error: why the file could not be read; None if it could. That is no damage.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Wrap a file that is open for reading; the caller closes it."""
        self._file = file
        self._checked = 0  # how far, in compressed bytes
        self._stream = zlib.decompressobj(_GZIP)
        self._is_between = False
        self.fault = ""
        self.is_checksum = False
        self.read_error: OSError | UserError | None = None

    def read(self, size: int = -1) -> bytes:
        """Read like a file."""
        start = self._file.tell()
        try:
            data = self._file.read(size)
        except (OSError, UserError) as error:  # the reader may replace the exception
            self.read_error = error
            raise
        if start <= self._checked < start + len(data):
            self._check(data[self._checked - start :])
            self._checked = start + len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek like a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position like a file."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Return whether the file can seek."""
        return self._file.seekable()

    def finish(self) -> None:
        """Read the rest of the file; `fault` then covers all of it."""
        self._file.seek(self._checked)
        while not self.fault and self.read(_READ_BYTES):
            pass
        if not self.fault and not (self._is_between or self._stream.eof):
            self.fault = "it is truncated"

    def _check(self, data: bytes) -> None:
        try:
            while data and not self.fault:
                data = self._inflate(data)
        except zlib.error as error:
            self.fault = str(error).rpartition(": ")[2]
            self.is_checksum = self.fault.startswith("incorrect")

    def _inflate(self, data: bytes) -> bytes:
        """Inflate some of the data; return the rest."""
        if self._stream.eof:
            self._is_between = True
        if self._is_between:
            # gzip itself ignores zeros and garbage after the last stream.
            data = data.lstrip(b"\0")
            if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
                return b""
            self._stream, self._is_between = zlib.decompressobj(_GZIP), not data
        self._stream.decompress(data, _READ_BYTES)
        return self._stream.unused_data or self._stream.unconsumed_tail
