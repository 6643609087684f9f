"""Examples of array_record files by number.

The format's own reader takes local files alone: a file behind a URL is fetched, whole, when its
first example is asked for, into a folder that goes with the process.
"""

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from laser_dist.training.shards import by_shard, damaged
from laser_dist.training.store import LocalFile, Readable

_FOR_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
_PIECE_BYTES = 1 << 24


class ArrayRecords:
    """Examples of a split's array_record files, in stored order."""

    def __init__(self, openers: Sequence[Callable[[], Readable]], lengths: Sequence[int]) -> None:
        """Opens no file yet.

        Args:
          openers: of the shards, in order.
          lengths: number of examples that each shard has.
        """
        self._openers, self._lengths = openers, lengths
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()  # a reader has one position
        self._scratch: Path | None = None

    def __len__(self) -> int:
        return sum(self._lengths)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """As `Records.read`."""
        found: list[bytes] = [b""] * len(indices)
        with self._lock:
            for shard, places, rows in by_shard(indices, self._lengths):
                contents = self._reader(shard).read(rows.tolist())
                for place, content in zip(places, contents, strict=True):
                    found[place] = content
        return found

    def _reader(self, shard: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        if shard not in self._readers:
            file = self._openers[shard]()
            path = file.name if isinstance(file, LocalFile) else self._fetched(file, shard)
            try:
                reader = ArrayRecordReader(path, _FOR_RANDOM_ACCESS)
                count = reader.num_records()
            except ValueError as error:  # riegeli's word for any damage
                got = " ".join(str(error).split())
                raise damaged(file, "an array_record file", got) from error
            if count != self._lengths[shard]:
                raise damaged(file, f"{self._lengths[shard]} examples", str(count))
            self._readers[shard] = reader
        return self._readers[shard]

    def _fetched(self, file: Readable, shard: int) -> str:
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="laser-jnd-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        path = self._scratch / f"{shard:05d}"
        with path.open("wb") as copy:
            for offset in range(0, file.size, _PIECE_BYTES):
                copy.write(file.read_at(offset, _PIECE_BYTES))
        return str(path)
