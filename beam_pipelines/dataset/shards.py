"""Plans a dataset's files from names and counts: the shards, and the rows of the label tables."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from beam_pipelines.dataset.measured_files import MeasuredFiles, read_metadata
from laser_dist.jnd.scale import NUM_LEVELS

NUM_READERS = 64
"""Number of training workers that find equal shares: each split has a multiple of it in shards."""

MAX_SHARD_BYTES = 1 << 28
"""A larger split gets more shards; a worker holds one in memory while it writes it."""

_PER_LEVEL = pa.list_(pa.float32(), NUM_LEVELS)
LABELS_SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("group_id", pa.string()),
        ("frame_index", pa.int64()),
        ("timestamp_s", pa.float32()),
        ("jnd_levels", _PER_LEVEL),
        ("jnd_level_means", _PER_LEVEL),
        ("viewer_samples", pa.list_(pa.list_(pa.int64()), NUM_LEVELS)),
        ("viewer_ids", pa.list_(pa.list_(pa.string()), NUM_LEVELS)),
        ("level_origins", pa.list_(pa.string(), NUM_LEVELS)),
        ("psnr_db", _PER_LEVEL),
        ("spatial_information", pa.float32()),
        ("temporal_information", pa.float32()),
    ]
)
"""Schema of a label table; types and names are those of the examples."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file to write.

    Attributes:
      split: such as "train".
      index: position among the split's shards, from 0.
      num_shards: number of shards of the split.
      examples: (location of the pairs, row there) of each example, in order.
    """

    split: str
    index: int
    num_shards: int
    examples: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """One file that has been written.

    Attributes:
      split: such as "train".
      index: position among the split's shards, from 0.
      num_examples: number of examples.
      num_bytes: total size of the examples.
    """

    split: str
    index: int
    num_examples: int
    num_bytes: int


def plan_shards(
    measured: Sequence[MeasuredFiles], splits: Mapping[str, str], max_examples: int | None = None
) -> list[Shard]:
    """Assign every example to a shard; the result does not depend on the order of `measured`.

    Within a split, examples are ordered by a hash of their key, as TFDS shuffles them. The shards
    are equal runs of that order: their lengths differ by 1 at most.

    Args:
      measured: measured sources.
      splits: source id to split.
      max_examples: largest number of examples of a split; the first ones of each source come first.
    """
    by_split: dict[str, list[MeasuredFiles]] = {}
    for each in measured:
        by_split.setdefault(splits[each.source_id], []).append(each)
    return [
        shard
        for split in sorted(by_split)
        for shard in _shards_of(split, by_split[split], max_examples)
    ]


def num_shards(num_examples: int, num_bytes: int) -> int:
    """Return the number of shards of a split: a multiple of `NUM_READERS`, or 1 for a small split.

    Args:
      num_examples: number of examples of the split, at least 1.
      num_bytes: total size of the examples.
    """
    if num_examples < NUM_READERS:
        return 1
    rounds = -(-num_bytes // (NUM_READERS * MAX_SHARD_BYTES)) or 1
    return NUM_READERS * min(rounds, num_examples // NUM_READERS)


def label_rows(shards: Iterable[Shard]) -> list[dict[str, Any]]:
    """Return the rows of a split's label table: row n describes example n; no frame is read."""
    examples = [
        each for shard in sorted(shards, key=lambda shard: shard.index) for each in shard.examples
    ]
    rows_at: dict[str, list[dict[str, Any]]] = {}
    for location in {location for location, _ in examples}:
        source, pairs = read_metadata(location)
        common = asdict(source)
        levels = common.pop("levels")
        common |= {
            "jnd_levels": [level["value"] for level in levels],
            "jnd_level_means": [level["mean"] for level in levels],
            "viewer_samples": [level["samples"] for level in levels],
            "viewer_ids": [level["viewers"] for level in levels],
        }
        rows_at[location] = [common | asdict(pair) for pair in pairs]
    return [rows_at[location][row] for location, row in examples]


def example_key(source_id: str, frame_index: int) -> str:
    """Return the key of one example of a dataset."""
    return f"{source_id}_{frame_index:05d}"


def _shards_of(
    split: str, measured: Sequence[MeasuredFiles], max_examples: int | None
) -> list[Shard]:
    found = sorted(
        (row, _order(split, each.source_id, frame_index), each.pairs)
        for each in measured
        for row, frame_index in enumerate(each.frame_indices)
    )
    ordered = sorted((order, pairs, row) for row, order, pairs in found[:max_examples])
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


def _order(split: str, source_id: str, frame_index: int) -> str:
    key = f"{split}{example_key(source_id, frame_index)}"
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
