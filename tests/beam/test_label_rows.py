"""The table of labels, from measured sources and shards as they are planned."""

import math
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from labeled_fakes import FPS, SETTINGS, levels_at

from beam_pipelines.dataset.label_table import WriteLabels
from beam_pipelines.dataset.measured_files import find_measured, read_pairs, write_measured
from beam_pipelines.dataset.shards import plan_shards
from beam_pipelines.elements import (
    FramePair,
    JndLevel,
    LabeledSource,
    MeasuredSource,
    SourceMetadata,
)
from laser_dist.jnd.scale import QP

pytestmark = pytest.mark.beam
NUM_FRAMES = 40
LACKING = JndLevel(value=math.nan, mean=math.nan, samples=())


def measured(folder, number):
    """A source of many frames; the second one lacks its third level."""
    first, second, third = levels_at(20 + number, 28 + number, 36 + number)
    levels = (first, second, LACKING if number == 2 else third)
    common = {"source_id": f"videoSRC{number:03d}", "group_id": f"g{number}", "levels": levels}
    source = LabeledSource(**common, scale=QP, fps=FPS, size=(2, 2), clips=())
    facts = SourceMetadata(
        **common,
        level_origins=("file", "encoded", "" if number == 2 else "file"),
        spatial_information=1.5 * number,
        temporal_information=0.5,
    )
    pairs = tuple(
        FramePair(
            frame_index=index,
            timestamp_s=index / 30,
            raw=np.full((2, 2, 3), number, np.uint8),
            levels=np.zeros((3, 2, 2, 3), np.uint8),
            psnr_db=(40.0 + index / 7, 38.0, math.nan if number == 2 else 36.0),
        )
        for index in range(NUM_FRAMES)
    )
    of_source = MeasuredSource(facts=facts, rows=(), pairs=pairs, rejects=(), is_final=True)
    write_measured(of_source, source, SETTINGS, str(folder))
    found = find_measured(source, SETTINGS, str(folder))
    assert found is not None
    return found


def test_rows_are_the_examples_of_all_shards_in_order_whatever_order_these_come_in(tmp_path):
    sources = [measured(tmp_path, number) for number in (1, 2, 3)]
    shards = plan_shards(sources, {each.source_id: "train" for each in sources})
    assert len(shards) > 1
    stored = [read_pairs(place, [row]) for shard in shards for place, row in shard.examples]
    random.Random(0).shuffle(shards)
    (place,) = WriteLabels(str(tmp_path / "data")).process(("train", shards))
    rows = pq.read_table(place).to_pylist()
    assert len(rows) == 3 * NUM_FRAMES
    for row, (facts, (pair,)) in zip(rows, stored, strict=True):
        assert (row["source_id"], row["frame_index"]) == (facts.source_id, pair.frame_index)
        assert row["group_id"] == facts.group_id
        assert row["viewer_samples"] == [list(level.samples) for level in facts.levels]
        assert row["level_origins"] == list(facts.level_origins)
        numbers = {
            "jnd_levels": [level.value for level in facts.levels],
            "jnd_level_means": [level.mean for level in facts.levels],
            "psnr_db": pair.psnr_db,
            "timestamp_s": pair.timestamp_s,
            "spatial_information": facts.spatial_information,
            "temporal_information": facts.temporal_information,
        }
        for name, values in numbers.items():
            np.testing.assert_array_equal(np.float32(row[name]), np.float32(values), err_msg=name)
    assert sum(math.isnan(row["jnd_levels"][2]) for row in rows) == NUM_FRAMES
