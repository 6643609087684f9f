"""The datasets' pipeline as Beam runs it, on a laptop or on Dataflow.

    sources ─ reshuffle ─▶ measure ─▶ two files a source ─┬─▶ quality/
                              └─▶ rejects (too many: stop) └─▶ plan shards ─┬─ reshuffle ─▶ write
                                                                            └─▶ labels/

What flows from step to step is small: ids, places of files, counts. Pictures go through files, so
memory does not grow with the number of clips on any runner.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_pipelines.dataset.frame_pairs import PairSettings
from beam_pipelines.dataset.label_table import WriteLabels
from beam_pipelines.dataset.measured_files import Measured
from beam_pipelines.dataset.measuring import MeasureSources
from beam_pipelines.dataset.places import BuildPlaces
from beam_pipelines.dataset.shards import WrittenShard, plan_shards
from beam_pipelines.elements import LabeledSource
from beam_pipelines.rejects import MAX_REJECT_RATE, Reject
from beam_pipelines.rejects_table import REJECTS, REJECTS_FILE, WriteRejects
from laser_dist import storage

QUALITY_FOLDER = "quality"
_WRITTEN_FILE = "written.json"


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What a build makes of which sources.

    Attributes:
      sources: found and matched.
      rejects: known by name.
      num_sources: rejected ones included.
      splits: source id to split.
      settings: of the examples.
      places: of input and output.
      max_reject_rate: largest share of the sources that may be lost or lose a clip.
      num_processes: codec's processes of each of Beam's workers.
    """

    sources: tuple[LabeledSource, ...]
    rejects: tuple[Reject, ...]
    num_sources: int
    splits: Mapping[str, str]
    settings: PairSettings
    places: BuildPlaces
    max_reject_rate: float = MAX_REJECT_RATE
    num_processes: int = 1


def add_build(
    pipeline: beam.Pipeline,
    plan: BuildPlan,
    write_shard: beam.DoFn,
    measure: beam.DoFn | None = None,
) -> None:
    """Adds the whole build to a pipeline.

    Args:
      pipeline: to add to.
      plan: what to build.
      write_shard: takes a `Shard` to a `WrittenShard`.
      measure: in place of `MeasureSources`.
    """
    places = plan.places
    measure = measure or MeasureSources(
        plan.settings, places.work, num_processes=plan.num_processes
    )
    outputs = (
        pipeline
        # In order, where one worker gets them all, so that the last to be done are short ones.
        | "Sources" >> beam.Create(longest_first(plan.sources), reshuffle=False)
        # Else one worker would get a run of neighbors, and a slow one hold up those behind it.
        | "SpreadSources" >> beam.Reshuffle()
        | "MeasureSources" >> beam.ParDo(measure).with_outputs(REJECTS, main="measured")
    )
    num_rejects = (
        outputs[REJECTS]
        | "GatherRejects" >> beam.combiners.ToList()
        | "WriteRejects"
        >> beam.ParDo(
            WriteRejects(
                storage.join(places.dataset, REJECTS_FILE),
                places.refusal,
                plan.rejects,
                plan.num_sources,
                plan.max_reject_rate,
            )
        )
    )
    measured = outputs["measured"]
    _ = measured | "PublishQuality" >> beam.ParDo(_PublishQuality(places.dataset))
    shards = (
        measured
        | "GatherSources" >> beam.combiners.ToList()
        # The number of rejects is not needed, but that they are few enough must be known first.
        | "PlanShards"
        >> beam.FlatMap(_plan, dict(plan.splits), beam.pvalue.AsSingleton(num_rejects))
    )
    _ = (
        shards
        | "GroupBySplit" >> beam.GroupBy(lambda shard: shard.split)
        | "WriteLabels" >> beam.ParDo(WriteLabels(places.dataset))
    )
    _ = (
        shards
        | "SpreadShards" >> beam.Reshuffle()
        | "WriteShards" >> beam.ParDo(write_shard)
        | "GatherShards" >> beam.combiners.ToList()
        | "TellShards" >> beam.ParDo(_TellShards(places.work))
    )


def longest_first(sources: Iterable[LabeledSource]) -> list[LabeledSource]:
    """Sources in the order of the work they are, the most first, as far as can be told unread.

    What a source takes goes with the bytes of its clips: a long or detailed one is long in bytes
    too, and takes its time to decode and to code anew.
    """
    return sorted(sources, key=lambda s: (-sum(file.size for _, file in s.clips), s.source_id))


def written_shards(work: str) -> dict[str, list[WrittenShard]]:
    """What a finished build has written: split to its shards, in order."""
    rows = json.loads(storage.read_bytes(storage.join(work, _WRITTEN_FILE)))
    by_split: dict[str, list[WrittenShard]] = {}
    for row in rows:
        by_split.setdefault(row["split"], []).append(WrittenShard(**row))
    return by_split


def _plan(measured: Sequence[Measured], splits: Mapping[str, str], num_rejects: int) -> list:
    del num_rejects
    return plan_shards(measured, splits)


class _PublishQuality(beam.DoFn):
    """Copies a source's rows into the dataset: one file, complete or absent."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset

    def process(self, measured: Measured) -> Iterable[str]:
        place = storage.join(self._dataset, QUALITY_FOLDER, f"{measured.source_id}.parquet")
        storage.write_bytes(place, storage.read_bytes(measured.quality))
        yield place


class _TellShards(beam.DoFn):
    """Writes down what was written, for whoever waits for the pipeline's end."""

    def __init__(self, work: str) -> None:
        self._work = work

    def process(self, shards: Sequence[WrittenShard]) -> Iterable[int]:
        rows: list[dict[str, Any]] = [
            {
                "split": shard.split,
                "index": shard.index,
                "num_examples": shard.num_examples,
                "num_bytes": shard.num_bytes,
            }
            for shard in sorted(shards, key=lambda shard: (shard.split, shard.index))
        ]
        place = storage.join(self._work, _WRITTEN_FILE)
        storage.write_bytes(place, json.dumps(rows).encode())
        yield len(rows)
