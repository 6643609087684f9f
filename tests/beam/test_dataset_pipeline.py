"""The build's pipeline on three tiny sources, two of them with faults."""

from collections import Counter

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from labeled_fakes import QPS, SETTINGS, coded, judged, waves

from beam_pipelines.dataset.measured_files import read_pairs
from beam_pipelines.dataset.pipeline import BuildPlan, add_build, written_shards
from beam_pipelines.dataset.places import BuildPlaces
from beam_pipelines.dataset.shards import WrittenShard
from beam_pipelines.rejects import Reject
from beam_pipelines.rejects_table import clear_failures, read_rejects
from beam_pipelines.runner import local_options
from laser_dist.errors import UserError

pytestmark = pytest.mark.beam

IDS = ("videoSRC001", "videoSRC002", "videoSRC003")
FOUND = (
    Reject(what="source", where="videoSRC009", stage="find", why="no reference (QP 0)"),
    Reject(what="copy", where="/a/b.264", stage="find", why="a second one"),
)


class TellExamples(beam.DoFn):
    """In place of a writer: reads the examples and tells how many there are."""

    def process(self, shard):
        pairs = [pair for place, row in shard.examples for pair in read_pairs(place, [row])[1]]
        yield WrittenShard(
            split=shard.split, index=shard.index, num_examples=len(pairs), num_bytes=0
        )


@pytest.fixture(scope="module")
def streams():
    return coded(waves())


@pytest.fixture
def places(tmp_path):
    return BuildPlaces(
        dataset=str(tmp_path / "data"),
        work=str(tmp_path / "work"),
        archives=str(tmp_path / "archives"),
        refusal=str(tmp_path / "refusal.parquet"),
    )


def plan_of(streams, folder, places, max_reject_rate=1.0):
    """The second source has two damaged clips, the third no reference that can be read."""
    damaged = {qp: streams[qp][: len(streams[qp]) // 2] for qp in streams}
    contents = (
        streams,
        streams | {qp: damaged[qp] for qp in QPS[:2]},
        streams | {0: damaged[0]},
    )
    pairs = zip(IDS, contents, strict=True)
    return BuildPlan(
        sources=tuple(judged(folder, content, source_id=key) for key, content in pairs),
        rejects=FOUND,
        num_sources=4,
        splits=dict(zip(IDS, ("train", "test", "validation"), strict=True)),
        settings=SETTINGS,
        places=places,
        max_reject_rate=max_reject_rate,
    )


def run(plan):
    """(namespace, name) to number of all counters."""
    pipeline = beam.Pipeline(options=local_options(1))
    add_build(pipeline, plan, TellExamples())
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(beam.metrics.MetricsFilter())["counters"]
    return {
        (counter.key.metric.namespace, counter.key.metric.name): counter.committed
        for counter in counters
    }


def test_counters_table_and_metadata_tell_of_the_same_rejects(streams, places, tmp_path):
    plan = plan_of(streams, tmp_path / "in", places)
    counters = run(plan)
    rejects, total = read_rejects(f"{places.dataset}/rejects.parquet")
    assert total == 4
    assert sorted((r.what, r.stage, r.source_id or r.where) for r in rejects) == [
        ("clip", "measure", "videoSRC002"),
        ("clip", "measure", "videoSRC002"),
        ("copy", "find", "/a/b.264"),
        ("source", "find", "videoSRC009"),
        ("source", "measure", "videoSRC003"),
    ]
    kinds = Counter(reject.what for reject in rejects)
    told = {name: count for (space, name), count in counters.items() if space == "rejects"}
    assert told == dict(kinds)
    measured = [reject for reject in rejects if reject.stage == "measure"]
    assert counters["clips", "rejected"] == sum(r.what == "clip" for r in measured)
    assert counters["sources", "rejected"] == sum(r.what == "source" for r in measured)
    assert counters["sources", "measured"] == 2
    # Nothing is left over or lost between what was found, what is measured and what is rejected.
    assert counters["sources", "measured"] + counters["sources", "rejected"] == len(plan.sources)
    shards = written_shards(places.work)
    assert {split: [shard.num_examples for shard in of] for split, of in shards.items()} == {
        "train": [3],
        "test": [3],
    }

    # A second run takes over what is whole, and counts the same rejects.
    again = run(plan)
    assert again["sources", "reused"] == 2
    assert ("sources", "measured") not in again
    assert {key: n for key, n in again.items() if key[0] == "rejects"} == {
        key: n for key, n in counters.items() if key[0] == "rejects"
    }
    assert read_rejects(f"{places.dataset}/rejects.parquet") == (rejects, total)


def test_rows_are_those_of_clips_that_are_not_rejected(streams, places, tmp_path):
    run(plan_of(streams, tmp_path / "in", places))
    rows = pq.read_table(f"{places.dataset}/quality").to_pylist()
    assert sorted((row["source_id"], row["qp"], row["origin"]) for row in rows) == [
        *(("videoSRC001", qp, "file") for qp in (0, *QPS)),
        ("videoSRC002", 0, "file"),
        *(("videoSRC002", qp, "encoded") for qp in QPS[:2]),
        ("videoSRC002", QPS[2], "file"),
    ]


def test_too_many_rejects_end_the_build_before_a_shard_is_written(streams, places, tmp_path):
    # Three of four sources are lost or impaired.
    plan = plan_of(streams, tmp_path / "in", places, max_reject_rate=0.74)
    with (
        pytest.raises(UserError, match=r"at most 74% of them with rejects, got 3 \(4 in all\)"),
        clear_failures(places.refusal, places.dataset),
    ):
        run(plan)
    assert len(read_rejects(places.refusal)[0]) == 5
    with pytest.raises(FileNotFoundError):
        written_shards(places.work)
