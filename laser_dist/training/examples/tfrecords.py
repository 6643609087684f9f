"""Examples of TFRecord files by number: where each begins is found once and kept in memory.

A record is its length (8 bytes, little-endian), a checksum of that (4), the payload, and a checksum
of the payload (4), which is CRC-32C, rotated by 15 bits and moved by a constant.
"""

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np

from laser_dist.storage import RandomAccessFile
from laser_dist.training.examples.shards import damaged

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


class TfRecords:
    """Examples of a split's TFRecord files, in stored order."""

    def __init__(
        self,
        openers: Sequence[Callable[[], RandomAccessFile]],
        lengths: Sequence[int],
        *,
        requests: int,
    ) -> None:
        """Opens the files and finds their records.

        Args:
          openers: of the shards, in order.
          lengths: number of examples that each shard has.
          requests: how many readings are under way at a time; 1 where they take no time to answer.

        Raises:
          UserError: a file that is not whole.
        """
        self._pool = ThreadPoolExecutor(requests, "records") if requests > 1 else None
        self._files = list(self._each(lambda opener: opener(), openers))
        offsets = list(self._each(_offsets, self._files, lengths))
        self._shards = np.repeat(np.arange(len(offsets)), [len(each) for each in offsets])
        self._places = np.concatenate([np.empty((0, 2), np.int64), *offsets])

    def __len__(self) -> int:
        return len(self._places)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """As `Records.read`."""
        return list(self._each(self._one, indices))

    def _one(self, index: int) -> bytes:
        file = self._files[self._shards[index]]
        offset, length = map(int, self._places[index])
        content = file.read_at(offset, length + _CHECKSUM.size)
        payload = content[:length]
        whole = len(content) == length + _CHECKSUM.size
        if not whole or _CHECKSUM.unpack(content[length:])[0] != _masked_crc(payload):
            got = "other bytes" if whole else "its end before"
            raise damaged(file, f"the example that was written at byte {offset}", got)
        return payload

    def _each(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._pool is None:
            return map(function, *arguments)
        return self._pool.map(function, *arguments)


def _offsets(file: RandomAccessFile, count: int) -> np.ndarray:
    """[count, 2]: where each payload begins, and its length, found by going from header to header.

    Raises:
      UserError: the file has another number of records, or ends within one.
    """
    found: list[tuple[int, int]] = []
    position = 0
    while position < file.size:
        header = file.read_at(position, _HEADER.size)
        if len(header) < _HEADER.size:
            raise damaged(file, f"{count} examples", f"its end within example {len(found)}")
        length, checksum = _HEADER.unpack(header)
        if checksum != _masked_crc(header[:8]):
            raise damaged(file, f"the beginning of an example at byte {position}", "other bytes")
        found.append((position + _HEADER.size, length))
        position += _HEADER.size + length + _CHECKSUM.size
    if position > file.size:
        raise damaged(file, f"{count} examples", f"its end within example {len(found) - 1}")
    if len(found) != count:
        raise damaged(file, f"{count} examples", str(len(found)))
    return np.array(found, np.int64).reshape(-1, 2)


def _masked_crc(content: bytes) -> int:
    value = google_crc32c.value(content)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
