"""Examples of Parquet files by number, as TFDS writes them: one column of serialized examples.

Parquet is read a row group at a time, which TFDS makes of up to 100 examples.
"""

from typing import Any

import numpy as np

from laser_dist.storage import RandomAccessFile, Stream
from laser_dist.training.examples.shards import ShardReaders, by_shard, damaged

_COLUMN = "data"


class ParquetRecords(ShardReaders):
    """Examples of a split's Parquet files, in stored order."""

    def _opened(self, file: RandomAccessFile, shard: int) -> tuple[Any, int]:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            opened = ParquetFile(Stream(file))
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
