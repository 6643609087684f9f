"""Scans a `.tar.gz` once, for the index through which its members are read."""

import io
import json
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any

from beam_pipelines.inputs.archives import (
    MAX_HEADER_BYTES,
    MAX_MEMBER_NAME,
    MAX_MEMBERS,
    MAX_RATIO,
    RATIO_FREE_BYTES,
    TOO_MANY,
    BoundedReads,
    cannot_read,
    index_locations,
    unpacked,
)
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage import StoredFile

_READ_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"
# What `tarfile` raises for damaged headers.
_FAULTS = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
    TypeError,
)


def index_tar(
    archive: StoredFile, index_folder: str, report: Callable[[str], None] = lambda step: None
) -> None:
    """Scan a `.tar.gz` and write the index of its members.

    No member of a damaged or truncated gzip file is indexed: without its checksum, any of them may
    be corrupt. Nor is one of an archive that unpacks to more than `MAX_RATIO` times its size. Of a
    tar with an invalid header, the members before it are indexed, and the fault is noted.

    Raises:
      UserError: the archive cannot be read at present; nothing is written.
    """
    try:
        opened = storage.open_listed(archive)
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
    storage.check_unchanged(archive)
    if checked.fault:
        members = []
    if members and not points:
        members, fault = [], fault or "it cannot be indexed"
    for row in members:
        if not row[1] and row[0]["offset"] + row[0]["size"] > checked.num_unpacked:
            row[1] = "it ends after the end of the archive"
    points_location, listing_location = index_locations(archive, index_folder)
    storage.write_bytes(points_location, points)
    listing = json.dumps({"members": members, "fault": checked.fault or fault})
    storage.write_bytes(listing_location, listing.encode())


def _scan_tar(content: Any) -> tuple[list[list[Any]], str]:
    """List the members up to the first fault.

    Returns:
      For each member but folders, its name, size and offset, and why it is not read ("" if it is);
      and the fault, "" if there is none.
    """
    members: list[list[Any]] = []
    places: dict[str, tuple[int, int]] = {}
    headers: Any = BoundedReads(content, MAX_HEADER_BYTES)
    end, count = -1, 0
    try:
        with tarfile.open(fileobj=headers, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if tar.offset <= end:  # a size below zero: it would be read again and again
                    raise tarfile.ReadError(f"invalid header at byte {end}")
                if (count := count + 1) > MAX_MEMBERS:
                    return [], TOO_MANY
                end, headers.left = tar.offset, MAX_HEADER_BYTES
                tar.members.clear()  # it would keep all of them in memory
                if not member.isdir():
                    name = member.name[: MAX_MEMBER_NAME + 1]
                    (size, offset), why = _place_of(member, end, places)
                    members.append([{"name": name, "size": size, "offset": offset}, why])
            end = tar.offset
        # `tarfile` takes an invalid header for the end of the archive.
        content.seek(end)
        if content.read(tarfile.BLOCKSIZE).strip(b"\0"):
            return members, f"invalid header at byte {end}"
    except _FAULTS as error:
        return members, str(error) or "invalid header"
    return members, ""


def _place_of(
    member: tarfile.TarInfo, end: int, places: dict[str, tuple[int, int]]
) -> tuple[tuple[int, int], str]:
    """Return size and offset of a member, and why it is not read; "" if it is.

    Args:
      member: the member; a hard link has the place of the file that it links to.
      end: where the next member starts.
      places: name to place of the members so far; this one is added.
    """
    place = (member.size, member.offset_data)
    if member.islnk():
        if member.linkname not in places:
            return place, "a link to a file that does not come before it in the archive"
        place = places[member.linkname]
    elif member.issparse() or not member.isfile():
        return place, "a sparse file" if member.issparse() else "neither a file nor a hard link"
    elif member.offset_data + member.size > end:
        return place, "it ends after the start of the next member"
    places[member.name[: MAX_MEMBER_NAME + 1]] = place
    return place, ""


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
      fault: what is wrong so far, after which nothing more is read; empty if nothing.
      num_unpacked: size of the content so far, in bytes.
      read_error: why the file could not be read; None if it could. That is no damage.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Wrap a file that is open for reading; the caller closes it."""
        self._file = file
        self._most = max(RATIO_FREE_BYTES, MAX_RATIO * file.seek(0, io.SEEK_END))
        file.seek(0)
        self._checked = 0  # how far, in compressed bytes
        self._stream = zlib.decompressobj(_GZIP)
        self._is_between = False
        self.fault = ""
        self.num_unpacked = 0
        self.read_error: OSError | UserError | None = None

    def read(self, size: int = -1) -> bytes:
        """Read like a file."""
        if self.fault:
            return b""
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
                if self.num_unpacked > self._most:
                    self.fault = f"it unpacks to more than {MAX_RATIO} times its size"
        except zlib.error as error:
            self.fault = str(error).rpartition(": ")[2]

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
        self.num_unpacked += len(self._stream.decompress(data, _READ_BYTES))
        return self._stream.unused_data or self._stream.unconsumed_tail
