"""The files of a split: which of them an example is in, and what is said of a damaged one."""

from collections.abc import Iterator, Sequence

import numpy as np

from laser_dist.errors import UserError
from laser_dist.training.store import Readable


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


def damaged(file: Readable, expected: str, got: str) -> UserError:
    """The error that a file of a dataset is not as it was written."""
    return UserError(f"Dataset file {file.name}", expected, got, "Copy or build it anew.")
