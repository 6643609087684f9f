"""The rows of a label table, from measured sources and planned shards."""

import math
import random

import numpy as np
import pyarrow as pa
from labeled_fakes import FPS, SETTINGS, levels_at

from beam_pipelines.dataset.measured_files import find_measured, read_pairs, write_measured
from beam_pipelines.dataset.shards import LABELS_SCHEMA, label_rows, plan_shards
from beam_pipelines.elements import (
    JndLevel,
    LabeledSource,
    MeasuredPair,
    MeasuredSource,
    SourceMetadata,
)
from laser_dist.jnd.scale import QP

NUM_FRAMES = 40
LACKING = JndLevel(value=math.nan, mean=math.nan, samples=())


def measured(folder, number):
    """Write a source of many frames; the second one has no third level."""
    first, second, third = levels_at(20 + number, 28 + number, 36 + number)
    levels = (first, second, LACKING if number == 2 else third)
    common = {"source_id": f"videoSRC{number:03d}", "group_id": f"g{number}", "levels": levels}
    source = LabeledSource(**common, scale=QP, fps=FPS, size=(2, 2), clips=())
    metadata = SourceMetadata(
        **common,
        level_origins=("file", "encoded", "" if number == 2 else "file"),
        spatial_information=1.5 * number,
        temporal_information=0.5,
    )
    pairs = tuple(
        MeasuredPair(
            frame_index=index,
            timestamp_s=index / 30,
            raw=np.full((2, 2, 3), number, np.uint8),
            levels=np.zeros((3, 2, 2, 3), np.uint8),
            psnr_db=(40.0 + index / 7, 38.0, math.nan if number == 2 else 36.0),
        )
        for index in range(NUM_FRAMES)
    )
    of_source = MeasuredSource(metadata=metadata, rows=(), pairs=pairs, rejects=(), is_final=True)
    write_measured(of_source, source, SETTINGS, str(folder))
    found = find_measured(source, SETTINGS, str(folder))
    assert found is not None
    return found


def test_rows_follow_the_order_of_the_examples_in_any_order_of_shards(tmp_path):
    sources = [measured(tmp_path, number) for number in (1, 2, 3)]
    shards = plan_shards(sources, {each.source_id: "train" for each in sources})
    assert len(shards) > 1
    stored = [read_pairs(location, [row]) for shard in shards for location, row in shard.examples]
    random.Random(0).shuffle(shards)
    rows = pa.Table.from_pylist(label_rows(shards), schema=LABELS_SCHEMA).to_pylist()
    assert len(rows) == 3 * NUM_FRAMES
    for row, (metadata, (pair,)) in zip(rows, stored, strict=True):
        assert (row["source_id"], row["frame_index"]) == (metadata.source_id, pair.frame_index)
        assert row["group_id"] == metadata.group_id
        assert row["viewer_samples"] == [list(level.samples) for level in metadata.levels]
        assert row["level_origins"] == list(metadata.level_origins)
        numbers = {
            "jnd_levels": [level.value for level in metadata.levels],
            "jnd_level_means": [level.mean for level in metadata.levels],
            "psnr_db": pair.psnr_db,
            "timestamp_s": pair.timestamp_s,
            "spatial_information": metadata.spatial_information,
            "temporal_information": metadata.temporal_information,
        }
        for name, values in numbers.items():
            np.testing.assert_array_equal(np.float32(row[name]), np.float32(values), err_msg=name)
    assert sum(math.isnan(row["jnd_levels"][2]) for row in rows) == NUM_FRAMES
