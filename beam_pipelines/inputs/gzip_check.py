"""Whether a gzip file is whole, found while something else reads it.

`indexed_gzip` leaves checksums unread where it starts anew, and gives what it could read of a cut
stream without a word. A second, plain inflation of the same bytes costs time but no reading.
"""

import zlib
from typing import IO

_READ_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"


class GzipCheck:
    """Passes a file's bytes on and checks each of its streams on the way.

    Attributes:
      fault: what is wrong, so far; empty if nothing.
      is_checksum: whether the fault is a checksum that does not match: what has been read was
        damaged somewhere, and nobody can tell where.
      unread: why the file could not be read on; None where it could. That is no damage.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Begins at the file's beginning.

        Args:
          file: open for reading, and closed by whoever opened it.
        """
        self._file = file
        self._checked = 0  # how far, in compressed bytes
        self._stream = zlib.decompressobj(_GZIP)
        self._is_between = False
        self.fault = ""
        self.is_checksum = False
        self.unread: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        start = self._file.tell()
        try:
            data = self._file.read(size)
        except OSError as error:  # whoever reads may make another error of it
            self.unread = error
            raise
        if start <= self._checked < start + len(data):
            self._check(data[self._checked - start :])
            self._checked = start + len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()

    def seekable(self) -> bool:
        """As a file's."""
        return self._file.seekable()

    def finish(self) -> None:
        """Reads what nobody has read; `fault` then speaks of the whole file."""
        self._file.seek(self._checked)
        while not self.fault and self.read(_READ_BYTES):
            pass
        if not self.fault and not (self._is_between or self._stream.eof):
            self.fault = "it ends too early"

    def _check(self, data: bytes) -> None:
        try:
            while data and not self.fault:
                data = self._inflate(data)
        except zlib.error as error:
            self.fault = str(error).rpartition(": ")[2]
            self.is_checksum = self.fault.startswith("incorrect")

    def _inflate(self, data: bytes) -> bytes:
        """Takes some of the data; returns the rest."""
        if self._stream.eof:
            self._is_between = True
        if self._is_between:
            # Behind the last stream, zeros or anything else may stand: gzip itself ignores them.
            data = data.lstrip(b"\0")
            if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
                return b""
            self._stream, self._is_between = zlib.decompressobj(_GZIP), not data
        self._stream.decompress(data, _READ_BYTES)
        return self._stream.unused_data or self._stream.unconsumed_tail
