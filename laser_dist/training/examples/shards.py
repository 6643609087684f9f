"""The files of a split: which of them an example is in, and what is said of a damaged one."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from laser_dist.errors import UserError
from laser_dist.storage import RandomAccessFile


def by_shard(
    indices: Sequence[int] | np.ndarray, lengths: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Groups examples by the file that they are in.

    Args:
      indices: [n] places in a split.
      lengths: number of examples of each shard.

    Yields:
      A shard's number, which of `indices` are in it [k], and their rows there [k].
    """
    wanted = np.asarray(indices, np.int64)
    ends = np.cumsum(lengths)
    shards = np.searchsorted(ends, wanted, side="right")
    for shard in np.unique(shards):
        places = np.flatnonzero(shards == shard)
        yield int(shard), places, wanted[places] - (ends[shard] - lengths[shard])


def damaged(file: RandomAccessFile, expected: str, got: str) -> UserError:
    """The error that a file of a dataset is not as it was written."""
    return UserError(f"Dataset file {file.name}", expected, got, "Copy or build it anew.")


class ShardReaders(ABC):
    """Examples of files that each have a reader of their format, for one thread at a time.

    A file is opened when its first example is asked for.
    """

    def __init__(
        self, openers: Sequence[Callable[[], RandomAccessFile]], lengths: Sequence[int]
    ) -> None:
        """Opens no file yet.

        Args:
          openers: of the shards, in order.
          lengths: number of examples that each shard has.
        """
        self._openers, self._lengths = openers, lengths
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(self._lengths)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """As `Records.read`."""
        found: list[bytes] = [b""] * len(indices)
        with self._lock:
            for shard, places, rows in by_shard(indices, self._lengths):
                if shard not in self._readers:
                    self._readers[shard] = self._reader(shard)
                contents = self._rows(self._readers[shard], rows)
                for place, content in zip(places, contents, strict=True):
                    found[place] = content
        return found

    def _reader(self, shard: int) -> Any:
        file = self._openers[shard]()
        reader, count = self._opened(file, shard)
        if count != self._lengths[shard]:
            raise damaged(file, f"{self._lengths[shard]} examples", str(count))
        return reader

    @abstractmethod
    def _opened(self, file: RandomAccessFile, shard: int) -> tuple[Any, int]:
        """A reader of a file, and how many examples it has.

        Raises:
          UserError: it is damaged.
        """

    @abstractmethod
    def _rows(self, reader: Any, rows: np.ndarray) -> list[bytes]:
        """Examples [k] of one file, in the order asked for."""
