"""Examples of Parquet files by number, as TFDS writes them: one column of serialized examples.

Parquet is read a row group at a time, which TFDS makes of up to 100 examples.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from laser_dist.training.shards import by_shard, damaged
from laser_dist.training.store import Readable

_COLUMN = "data"


class ParquetRecords:
    """Examples of a split's Parquet files, in stored order."""

    def __init__(self, openers: Sequence[Callable[[], Readable]], lengths: Sequence[int]) -> None:
        """Opens no file yet.

        Args:
          openers: of the shards, in order.
          lengths: number of examples that each shard has.
        """
        self._openers, self._lengths = openers, lengths
        self._files: dict[int, Any] = {}
        self._lock = threading.Lock()  # a file of pyarrow's is for one thread

    def __len__(self) -> int:
        return sum(self._lengths)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """As `Records.read`."""
        found: list[bytes] = [b""] * len(indices)
        with self._lock:
            for shard, places, rows in by_shard(indices, self._lengths):
                file = self._file(shard)
                about = file.metadata
                sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
                for group, among, group_rows in by_shard(rows, sizes):
                    column = file.read_row_group(group, columns=[_COLUMN]).column(_COLUMN)
                    for place, row in zip(places[among], group_rows, strict=True):
                        found[place] = column[int(row)].as_py()
        return found

    def _file(self, shard: int) -> Any:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        if shard not in self._files:
            source = self._openers[shard]()
            try:
                file = ParquetFile(_Stream(source))
            except (ArrowException, OSError) as error:
                got = " ".join(str(error).split())
                raise damaged(source, "a Parquet file", got) from error
            if file.metadata.num_rows != self._lengths[shard]:
                expected = f"{self._lengths[shard]} examples"
                raise damaged(source, expected, str(file.metadata.num_rows))
            self._files[shard] = file
        return self._files[shard]


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
