"""Random access to the examples of a prepared dataset, on a disk or in a bucket.

The examples are records of TFRecord files; shards in another format are copied to such files first.
A record is the payload's length (8 bytes, little-endian), a checksum of the length (4), the
payload, and a checksum of the payload (4). A checksum is a CRC-32C, rotated by 15 bits, plus a
constant.
"""

import json
import struct
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.examples.label_table import read_label_table

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_FILE_FORMAT = "tfrecord"
_NUM_REQUESTS = 16  # concurrent requests to a bucket, each of which takes some tens of milliseconds
_REBUILD = "Copy the dataset again, or build it again."


class Records:
    """Examples in stored order, each a serialized `tf.train.Example`.

    The position of each record is found once, when the files are opened.
    """

    def __init__(self, locations: Sequence[str], lengths: Sequence[int]) -> None:
        """Open the files and find their records.

        Args:
          locations: path or URL of each shard, in order.
          lengths: number of examples in each shard.

        Raises:
          UserError: a file is missing or damaged, or the bucket cannot be read.
        """
        in_bucket = any(map(storage.is_url, locations))
        self._pool = ThreadPoolExecutor(_NUM_REQUESTS, "records") if in_bucket else None
        self._files = list(self._map(_open, locations))
        positions = list(self._map(_positions, self._files, lengths))
        self._shards = np.repeat(np.arange(len(positions)), [len(each) for each in positions])
        self._positions = np.concatenate([np.empty((0, 2), np.int64), *positions])

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Read examples, in the order of the indices; any number of threads can call it.

        Args:
          indices: [n] positions in the stored order, from 0.

        Raises:
          UserError: a file is damaged, or the bucket cannot be read.
        """
        return list(self._map(self._read_one, indices))

    @staticmethod
    def joined(parts: Sequence[tuple["Records", np.ndarray]]) -> "Records":
        """Return some examples of one split or more, by their [n] positions in each."""
        firsts = np.cumsum([0, *(len(records._files) for records, _ in parts)])
        result = copy(parts[0][0])
        result._files = [file for records, _ in parts for file in records._files]
        result._shards = np.concatenate(
            [
                records._shards[rows] + first
                for (records, rows), first in zip(parts, firsts[:-1], strict=True)
            ]
        )
        result._positions = np.concatenate([records._positions[rows] for records, rows in parts])
        return result

    def _read_one(self, index: int) -> bytes:
        file = self._files[self._shards[index]]
        offset, length = map(int, self._positions[index])
        content = file.read_at(offset, length + _CHECKSUM.size)
        payload = content[:length]
        if len(content) < length + _CHECKSUM.size:
            raise _damaged(file, f"it ends within the example at byte {offset}")
        if _CHECKSUM.unpack(content[length:])[0] != _masked_crc(payload):
            raise _damaged(file, f"the example at byte {offset} does not match its checksum")
        return payload

    def _map(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return (self._pool.map if self._pool else map)(function, *arguments)


def open_examples(
    location: str | Path, source_ids: Collection[str], columns: Sequence[str]
) -> tuple[Records, pa.Table]:
    """Open the examples of some sources of a prepared dataset, whichever stored split has them.

    Args:
      location: path or URL of the dataset.
      source_ids: ids of the sources.
      columns: names of the columns of the label table to return.

    Returns:
      The examples, and a row of labels for each.

    Raises:
      UserError: there is no such dataset, it has none of the sources, or a file is missing or
        damaged.
    """
    wanted = pa.array(sorted(source_ids), pa.string())
    parts: list[tuple[Records, np.ndarray]] = []
    tables: list[pa.Table] = []
    for split, lengths in _shard_lengths(location)[2].items():
        if not lengths:
            continue
        names = list(dict.fromkeys(("source_id", *columns)))
        table = read_label_table(location, split, sum(lengths), names)
        rows = np.flatnonzero(pc.is_in(table["source_id"], wanted).to_numpy(zero_copy_only=False))
        if len(rows):  # opening a split reads all its files
            parts.append((open_records(location, split), rows))
            tables.append(table.take(rows).select(list(columns)))
    if not parts:
        raise UserError(
            f"{location} has no example of the {len(source_ids)} sources of a split.",
            hint="Build a larger dataset.",
        )
    return Records.joined(parts), pa.concat_tables(tables)


def num_examples(location: str | Path) -> int:
    """Return the number of examples in all stored splits of a prepared dataset.

    Raises:
      UserError: there is no such dataset.
    """
    return sum(map(sum, _shard_lengths(location)[2].values()))


def read_groups(location: str | Path) -> dict[str, str]:
    """Return the group id of each source of a prepared dataset, by source id.

    Raises:
      UserError: there is no such dataset, or a label table is missing or damaged.
    """
    groups: dict[str, str] = {}
    for split, lengths in _shard_lengths(location)[2].items():
        if lengths:
            table = read_label_table(location, split, sum(lengths), ("source_id", "group_id"))
            groups |= dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return groups


def open_records(location: str | Path, split: str) -> Records:
    """Open a stored split of a prepared dataset.

    Args:
      location: path or URL of the dataset.
      split: name of the split, such as "train".

    Raises:
      UserError: there is no such dataset or split, or a file is missing or damaged.
    """
    name, file_format, splits = _shard_lengths(location)
    if split not in splits:
        raise UserError(
            f'{location} has no split "{split}"; it has {", ".join(splits) or "no splits"}.',
            hint="Build the dataset again.",
        )
    lengths = splits[split]
    stem, count = f"{name}-{split}.{file_format}", len(lengths)
    names = [f"{stem}-{index:05d}-of-{count:05d}" for index in range(count)]
    if file_format == _FILE_FORMAT:
        return Records([storage.join(location, each) for each in names], lengths)
    from laser_dist.examples.converted_shards import converted_shards  # imports TFDS

    return Records(converted_shards(str(location), names, file_format), lengths)


def _shard_lengths(location: str | Path) -> tuple[str, str, dict[str, list[int]]]:
    """Return name and file format of a dataset, and the lengths of each stored split's shards."""
    try:
        info = json.loads(storage.read_bytes(storage.join(location, "dataset_info.json")))
        splits = {
            each["name"]: [int(length) for length in each.get("shardLengths", ())]
            for each in info["splits"]
        }
        return info["name"], info.get("fileFormat", _FILE_FORMAT), splits
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{location} is not a prepared dataset: it has no valid dataset_info.json.",
            hint="Build one; see `laser-jnd help build`.",
        ) from error


def _open(location: str) -> storage.RandomAccessFile:
    try:
        return storage.open_random(location)
    except FileNotFoundError as error:
        raise UserError(f"Dataset file {location} is missing.", hint=_REBUILD) from error


def _positions(file: storage.RandomAccessFile, count: int) -> np.ndarray:
    """Return [count, 2]: offset and length of each payload, read from header to header.

    Raises:
      UserError: the file has another number of records, or ends within one.
    """
    found: list[tuple[int, int]] = []
    position = 0
    while position < file.size:
        header = file.read_at(position, _HEADER.size)
        if len(header) < _HEADER.size:
            raise _damaged(file, f"it ends within example {len(found)}")
        length, checksum = _HEADER.unpack(header)
        if checksum != _masked_crc(header[:8]):
            raise _damaged(file, f"no example starts at byte {position}")
        found.append((position + _HEADER.size, length))
        position += _HEADER.size + length + _CHECKSUM.size
    if position > file.size:
        raise _damaged(file, f"it ends within example {len(found) - 1}")
    if len(found) != count:
        raise _damaged(file, f"it has {len(found)} of {count} examples")
    return np.array(found, np.int64).reshape(-1, 2)


def _damaged(file: storage.RandomAccessFile, reason: str) -> UserError:
    return UserError(f"Dataset file {file.name} is damaged: {reason}.", hint=_REBUILD)


def _masked_crc(content: bytes) -> int:
    value = google_crc32c.value(content)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
