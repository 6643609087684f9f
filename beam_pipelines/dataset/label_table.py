"""All that a dataset's examples hold but their frames, a table a split: `labels/SPLIT.parquet`.

Row n tells of example n. Training takes its targets from here, not out of gigabytes of frames, and
people read it with what they like.
"""

import io
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.dataset.measured_files import read_facts
from beam_pipelines.dataset.shards import Shard
from laser_dist import storage
from laser_dist.jnd.scale import NUM_LEVELS

LABELS_FOLDER = "labels"

_PER_LEVEL = pa.list_(pa.float32(), NUM_LEVELS)
# Types and names are those of the examples.
_SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("group_id", pa.string()),
        ("frame_index", pa.int64()),
        ("timestamp_s", pa.float32()),
        ("jnd_levels", _PER_LEVEL),
        ("jnd_level_means", _PER_LEVEL),
        ("viewer_samples", pa.list_(pa.list_(pa.int64()), NUM_LEVELS)),
        ("level_origins", pa.list_(pa.string(), NUM_LEVELS)),
        ("psnr_db", _PER_LEVEL),
        ("spatial_information", pa.float32()),
        ("temporal_information", pa.float32()),
    ]
)


class WriteLabels(beam.DoFn):
    """Writes the table of a split, complete or absent, from its shards as they are planned."""

    def __init__(self, dataset: str) -> None:
        """Takes note of the dataset's folder, path or URL."""
        self._dataset = dataset

    def process(self, element: tuple[str, Iterable[Shard]]) -> Iterable[str]:
        """Yields the table's place."""
        split, shards = element
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(label_rows(shards), schema=_SCHEMA), file)
        place = storage.join(self._dataset, LABELS_FOLDER, f"{split}.parquet")
        storage.write_bytes(place, file.getvalue())
        yield place


def label_rows(shards: Iterable[Shard]) -> list[dict[str, Any]]:
    """What the examples of a split's shards hold, in their order; no frame is read."""
    examples = [
        each for shard in sorted(shards, key=lambda shard: shard.index) for each in shard.examples
    ]
    of_place: dict[str, list[dict[str, Any]]] = {}
    for place in {place for place, _ in examples}:
        facts, pairs = read_facts(place)
        common = asdict(facts)
        levels = common.pop("levels")
        common |= {
            "jnd_levels": [level["value"] for level in levels],
            "jnd_level_means": [level["mean"] for level in levels],
            "viewer_samples": [level["samples"] for level in levels],
        }
        of_place[place] = [common | asdict(pair) for pair in pairs]
    return [of_place[place][row] for place, row in examples]
