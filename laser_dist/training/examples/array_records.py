"""Examples of array_record files by number.

The format's own reader takes local files alone: a file behind a URL is fetched, whole, when its
first example is asked for, into a folder that goes with the process.
"""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from laser_dist.storage import LocalFile, RandomAccessFile
from laser_dist.training.examples.shards import ShardReaders, damaged

_FOR_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
_PIECE_BYTES = 1 << 24


class ArrayRecords(ShardReaders):
    """Examples of a split's array_record files, in stored order."""

    _scratch: Path | None = None

    def _opened(self, file: RandomAccessFile, shard: int) -> tuple[Any, int]:
        from array_record.python.array_record_module import ArrayRecordReader

        path = file.name if isinstance(file, LocalFile) else self._fetched(file, shard)
        try:
            reader = ArrayRecordReader(path, _FOR_RANDOM_ACCESS)
            return reader, reader.num_records()
        except ValueError as error:  # riegeli's word for any damage
            got = " ".join(str(error).split())
            raise damaged(file, "an array_record file", got) from error

    def _rows(self, reader: Any, rows: np.ndarray) -> list[bytes]:
        return reader.read(rows.tolist())

    def _fetched(self, file: RandomAccessFile, shard: int) -> str:
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="laser-jnd-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        path = self._scratch / f"{shard:05d}"
        with path.open("wb") as copy:
            for offset in range(0, file.size, _PIECE_BYTES):
                copy.write(file.read_at(offset, _PIECE_BYTES))
        return str(path)
