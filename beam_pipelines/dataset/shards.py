"""Which examples go into which file of a dataset: planned from names and counts alone."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beam_pipelines.dataset.measured_files import Measured

NUM_READERS = 64
"""Training workers that shall find even shares: each split's number of shards is a multiple."""

MAX_SHARD_BYTES = 1 << 28
"""A larger split gets more shards; a worker holds one in memory while it writes it."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file to write.

    Attributes:
      split: such as "train".
      index: among the split's shards, from 0.
      num_shards: of the split.
      examples: (place of the pairs, row there) of each example, in order.
    """

    split: str
    index: int
    num_shards: int
    examples: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """One file that is there.

    Attributes:
      split: such as "train".
      index: among the split's shards, from 0.
      num_examples: in it.
      num_bytes: of its examples.
    """

    split: str
    index: int
    num_examples: int
    num_bytes: int


def plan_shards(measured: Sequence[Measured], splits: Mapping[str, str]) -> list[Shard]:
    """Deals every example to a shard; the answer does not depend on the order of `measured`.

    Within a split, examples stand in the order of a hash of their key, as TFDS itself mixes them,
    and its shards are equal runs of that order: their lengths differ by 1 at most.

    Args:
      measured: sources whose pairs are there.
      splits: source id to split.
    """
    by_split: dict[str, list[Measured]] = {}
    for each in measured:
        by_split.setdefault(splits[each.source_id], []).append(each)
    return [shard for split in sorted(by_split) for shard in _shards_of(split, by_split[split])]


def num_shards(num_examples: int, num_bytes: int) -> int:
    """How many shards a split gets: a multiple of `NUM_READERS`, or 1 if it is smaller than that.

    Args:
      num_examples: of the split, at least 1.
      num_bytes: of them.
    """
    if num_examples < NUM_READERS:
        return 1
    rounds = -(-num_bytes // (NUM_READERS * MAX_SHARD_BYTES)) or 1
    return NUM_READERS * min(rounds, num_examples // NUM_READERS)


def _shards_of(split: str, measured: Sequence[Measured]) -> list[Shard]:
    ordered = sorted(
        (_order(split, each.source_id, frame_index), each.pairs, row)
        for each in measured
        for row, frame_index in enumerate(each.frame_indices)
    )
    examples = [(pairs, row) for _, pairs, row in ordered]
    count = num_shards(len(examples), sum(each.num_bytes for each in measured))
    ends = [index * len(examples) // count for index in range(count + 1)]
    return [
        Shard(
            split=split,
            index=index,
            num_shards=count,
            examples=tuple(examples[ends[index] : ends[index + 1]]),
        )
        for index in range(count)
    ]


def example_key(source_id: str, frame_index: int) -> str:
    """Names one example of a dataset."""
    return f"{source_id}_{frame_index:05d}"


def _order(split: str, source_id: str, frame_index: int) -> str:
    key = f"{split}{example_key(source_id, frame_index)}"
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
