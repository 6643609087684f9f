"""The build's pipeline on three tiny sources, two of them with faults."""

from collections import Counter

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.testing import test_pipeline as beam_testing
from apache_beam.testing.util import assert_that, equal_to
from labeled_fakes import QPS, SETTINGS, encoded, labeled, waves

from beam_pipelines.dataset.measured_files import find_measured, read_pairs
from beam_pipelines.dataset.pipeline import (
    MEASURED,
    BuildLocations,
    BuildPlan,
    MatchInputs,
    MeasureSources,
    WriteDataset,
    add_build,
    written_build,
)
from beam_pipelines.dataset.shards import WrittenShard
from beam_pipelines.rejects import Reject, read_rejects
from beam_pipelines.runner import REJECTS, local_options, translate_failures
from laser_dist.errors import UserError

pytestmark = pytest.mark.beam

IDS = ("videoSRC001", "videoSRC002", "videoSRC003")
FOUND = (
    Reject(what="source", where="videoSRC009", stage="find", why="no reference (QP 0)"),
    Reject(what="copy", where="/a/b.264", stage="find", why="a second one"),
)


class CountExamples(beam.DoFn):
    """Stands in for the writer: reads the examples and counts them."""

    def process(self, shard):
        count = sum(len(read_pairs(location, [row])[1]) for location, row in shard.examples)
        yield WrittenShard(split=shard.split, index=shard.index, num_examples=count, num_bytes=0)


@pytest.fixture(scope="module")
def streams():
    return encoded(waves())


@pytest.fixture
def locations(tmp_path):
    return BuildLocations(
        dataset=str(tmp_path / "data"),
        work=str(tmp_path / "work"),
        archives=str(tmp_path / "archives"),
        refusal=str(tmp_path / "refusal.parquet"),
    )


def plan_of(streams, folder, locations, max_reject_rate=1.0):
    """Damage two clips of the second source and the reference of the third."""
    damaged = {qp: streams[qp][: len(streams[qp]) // 2] for qp in streams}
    contents = (
        streams,
        streams | {qp: damaged[qp] for qp in QPS[:2]},
        streams | {0: damaged[0]},
    )
    pairs = zip(IDS, contents, strict=True)
    return BuildPlan(
        sources=tuple(labeled(folder, content, source_id=key) for key, content in pairs),
        rejects=FOUND,
        num_sources=4,
        splits=dict(zip(IDS, ("train", "test", "validation"), strict=True)),
        settings=SETTINGS,
        locations=locations,
        max_reject_rate=max_reject_rate,
    )


def run(plan):
    """Run a build and return its counters by (namespace, name)."""
    pipeline = beam.Pipeline(options=local_options(1))
    add_build(pipeline, plan, CountExamples())
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(beam.metrics.MetricsFilter())["counters"]
    return {
        (counter.key.metric.namespace, counter.key.metric.name): counter.committed
        for counter in counters
    }


def test_each_composite_can_be_used_alone(streams, locations, tmp_path):
    plan = plan_of(streams, tmp_path / "in", locations)
    with beam_testing.TestPipeline(options=local_options(1)) as pipeline:
        sources = pipeline | MatchInputs(plan)
        assert_that(sources | beam.Map(lambda source: source.source_id), equal_to(IDS))
    with beam_testing.TestPipeline(options=local_options(1)) as pipeline:
        outputs = pipeline | beam.Create(plan.sources[1:]) | MeasureSources(plan)
        ids = outputs[MEASURED] | "ids" >> beam.Map(lambda each: each.source_id)
        assert_that(ids, equal_to(IDS[1:2]), label="measured")
        where = outputs[REJECTS] | "where" >> beam.Map(lambda reject: (reject.what, reject.stage))
        expected = [("clip", "measure")] * 2 + [("source", "measure")]
        assert_that(where, equal_to(expected), label="rejects")
    (measured,) = find_all(plan.sources[1:2], locations)
    with beam_testing.TestPipeline(options=local_options(1)) as pipeline:
        inputs = {
            MEASURED: pipeline | "measured" >> beam.Create([measured]),
            REJECTS: pipeline | "none" >> beam.Create([]),
        }
        assert_that(inputs | WriteDataset(plan, CountExamples()), equal_to([1]))
    assert [*written_build(locations.work).shards] == ["test"]


def find_all(sources, locations):
    return [find_measured(source, SETTINGS, locations.work) for source in sources]


def test_counters_and_table_agree_on_the_rejects(streams, locations, tmp_path):
    plan = plan_of(streams, tmp_path / "in", locations)
    counters = run(plan)
    rejects, total = read_rejects(f"{locations.dataset}/rejects.parquet")
    assert total == 4
    assert sorted((r.what, r.stage, r.source_id or r.where) for r in rejects) == [
        ("clip", "measure", "videoSRC002"),
        ("clip", "measure", "videoSRC002"),
        ("copy", "find", "/a/b.264"),
        ("source", "find", "videoSRC009"),
        ("source", "measure", "videoSRC003"),
    ]
    kinds = Counter(reject.what for reject in rejects)
    counted = {name: count for (space, name), count in counters.items() if space == "rejects"}
    assert counted == dict(kinds)
    measured = [reject for reject in rejects if reject.stage == "measure"]
    assert counters["clips", "rejected"] == sum(r.what == "clip" for r in measured)
    assert counters["sources", "rejected"] == sum(r.what == "source" for r in measured)
    assert counters["sources", "measured"] == 2
    # Every source found is either measured or rejected.
    assert counters["sources", "measured"] + counters["sources", "rejected"] == len(plan.sources)
    shards = written_build(locations.work).shards
    assert {split: [shard.num_examples for shard in of] for split, of in shards.items()} == {
        "train": [3],
        "test": [3],
    }

    # A second run reuses complete files, and counts the same rejects.
    again = run(plan)
    assert again["sources", "reused"] == 2
    assert ("sources", "measured") not in again
    assert {key: n for key, n in again.items() if key[0] == "rejects"} == {
        key: n for key, n in counters.items() if key[0] == "rejects"
    }
    assert read_rejects(f"{locations.dataset}/rejects.parquet") == (rejects, total)


def test_the_quality_table_has_a_row_for_every_accepted_clip(streams, locations, tmp_path):
    run(plan_of(streams, tmp_path / "in", locations))
    rows = pq.read_table(f"{locations.dataset}/quality").to_pylist()
    assert sorted((row["source_id"], row["qp"], row["origin"]) for row in rows) == [
        *(("videoSRC001", qp, "file") for qp in (0, *QPS)),
        ("videoSRC002", 0, "file"),
        *(("videoSRC002", qp, "encoded") for qp in QPS[:2]),
        ("videoSRC002", QPS[2], "file"),
    ]


def test_too_many_rejects_stop_the_build_before_a_shard_is_written(streams, locations, tmp_path):
    # Three of four sources are lost or impaired.
    plan = plan_of(streams, tmp_path / "in", locations, max_reject_rate=0.74)
    with (
        pytest.raises(UserError, match="3 of 4 sources have rejected inputs, more than .* 74%"),
        translate_failures(locations.refusal, locations.dataset),
    ):
        run(plan)
    assert len(read_rejects(locations.refusal)[0]) == 5
    with pytest.raises(FileNotFoundError):
        written_build(locations.work)
