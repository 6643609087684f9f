"""Examples of Parquet files by number, as TFDS writes them: one column of serialized examples.

Parquet is read a row group at a time, which TFDS makes of up to 100 examples.
"""

from typing import Any

import numpy as np

from laser_dist.training.examples.shards import ShardReaders, by_shard, damaged
from laser_dist.training.storage.store import Readable

_COLUMN = "data"


class ParquetRecords(ShardReaders):
    """Examples of a split's Parquet files, in stored order."""

    def _opened(self, file: Readable, shard: int) -> tuple[Any, int]:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            opened = ParquetFile(_Stream(file))
        except (ArrowException, OSError) as error:
            got = " ".join(str(error).split())
            raise damaged(file, "a Parquet file", got) from error
        return opened, opened.metadata.num_rows

    def _rows(self, reader: Any, rows: np.ndarray) -> list[bytes]:
        found: list[bytes] = [b""] * len(rows)
        about = reader.metadata
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        for group, places, group_rows in by_shard(rows, sizes):
            column = reader.read_row_group(group, columns=[_COLUMN]).column(_COLUMN)
            for place, row in zip(places, group_rows, strict=True):
                found[place] = column[int(row)].as_py()
        return found


class _Stream:
    """A `Readable` as the Python file that pyarrow asks for."""

    closed = False

    def __init__(self, file: Readable) -> None:
        self._file, self._position = file, 0

    def read(self, length: int = -1) -> bytes:
        """The next bytes."""
        if length < 0:
            length = self._file.size - self._position
        content = self._file.read_at(self._position, length)
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a position."""
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """The file stays open for others."""
