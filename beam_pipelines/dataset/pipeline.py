"""The dataset pipeline, on one machine or on Dataflow.

    MatchInputs   sources ─ reshuffle
    MeasureSources   └─▶ measure ─▶ two files a source, rejects
    WriteDataset            ├─▶ rejects (too many: stop)
                            ├─▶ quality/
                            └─▶ plan shards ─┬─ reshuffle ─▶ write
                                             └─▶ labels/

Elements are small: ids, locations of files, counts. Frames are passed in files, so memory does not
grow with the number of clips on any runner.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.dataset.measured_files import PAIRS_SUFFIX, MeasuredFiles, made_by
from beam_pipelines.dataset.measuring import MeasureSource
from beam_pipelines.dataset.shards import (
    LABELS_SCHEMA,
    Shard,
    WrittenShard,
    label_rows,
    plan_shards,
)
from beam_pipelines.elements import LabeledSource, PairSettings
from beam_pipelines.rejects import MAX_REJECT_RATE, REJECTS_FILE, Reject, RejectLimit
from beam_pipelines.runner import REJECTS, WriteRejects
from laser_dist import storage

QUALITY_FOLDER = "quality"
LABELS_FOLDER = "labels"
MEASURED = "measured"
"""Main output of `MeasureSources`; the other one is `REJECTS`."""
_WRITTEN_FILE = "written.json"


@dataclass(frozen=True, kw_only=True)
class BuildLocations:
    """Where a build reads and writes; paths or URLs.

    Attributes:
      dataset: folder of the dataset's files.
      work: folder of intermediate files, which a later build can reuse.
      archives: folder of archive indexes.
      refusal: table of rejects that a refused build leaves.
    """

    dataset: str
    work: str
    archives: str
    refusal: str

    @classmethod
    def of(cls, dataset: str) -> "BuildLocations":
        """Return the locations for a version's folder: next to it, hidden from searches.

        Args:
          dataset: `DATA_DIR/NAME/CONFIG/VERSION`, or TFDS's temporary name of it.
        """
        parent, version = storage.split(dataset)
        version = version.rpartition("_")[2]
        data_dir, _ = storage.split(storage.split(parent)[0])
        return cls(
            dataset=str(dataset),
            work=storage.join(parent, f".unfinished-{version}"),
            archives=archives_folder(data_dir),
            refusal=storage.join(parent, f"rejected-{version}.parquet"),
        )


def archives_folder(data_dir: str) -> str:
    """Return the folder of archive indexes, which all datasets below `data_dir` share."""
    return storage.join(data_dir, ".archives")


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Input, settings and locations of a build.

    Attributes:
      sources: matched sources.
      rejects: rejects known before any clip is read.
      num_sources: number of sources, including lost ones.
      splits: source id to split.
      settings: settings of the examples.
      locations: locations of input and output.
      max_reject_rate: largest accepted share of sources that are lost or lack a clip, in [0, 1].
      max_examples_per_split: number of examples after which a split ends; None for all.
      num_processes: number of codec processes of each Beam worker.
      about: metadata of the dataset as known before it is built, in JSON's types.
    """

    sources: tuple[LabeledSource, ...]
    rejects: tuple[Reject, ...]
    num_sources: int
    splits: Mapping[str, str]
    settings: PairSettings
    locations: BuildLocations
    max_reject_rate: float = MAX_REJECT_RATE
    max_examples_per_split: int | None = None
    num_processes: int = 1
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WrittenBuild:
    """What a pipeline has written, for the process that publishes the dataset.

    Attributes:
      about: as `BuildPlan.about`.
      made_by: as `measured_files.made_by` in the workers.
      shards: the shards by split, in order.
    """

    about: Mapping[str, Any]
    made_by: str
    shards: Mapping[str, Sequence[WrittenShard]]


def add_build(
    pipeline: beam.Pipeline,
    plan: BuildPlan,
    write_shard: beam.DoFn,
    measure: beam.DoFn | None = None,
) -> None:
    """Add all steps of a build to a pipeline.

    Args:
      pipeline: pipeline to extend.
      plan: the build.
      write_shard: turns a `Shard` into a `WrittenShard`.
      measure: replaces `MeasureSource`.
    """
    sources = pipeline | MatchInputs(plan)
    measured: Any = sources | MeasureSources(plan, measure)
    _ = {name: measured[name] for name in (MEASURED, REJECTS)} | WriteDataset(plan, write_shard)


class MatchInputs(beam.PTransform):
    """Returns the matched sources of a build, `LabeledSource`; their names and labels are known."""

    def __init__(self, plan: BuildPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, input_or_inputs: Any) -> Any:
        """Return the sources, spread over the workers."""
        return (
            input_or_inputs
            # A single worker keeps this order, so that the last sources are short ones.
            | "Sources" >> beam.Create(longest_first(self._plan.sources), reshuffle=False)
            # Several workers would otherwise get runs of neighbors, and a slow one would delay its
            # run.
            | "SpreadSources" >> beam.Reshuffle()
        )


class MeasureSources(beam.PTransform):
    """Measures each `LabeledSource`; returns `MeasuredFiles` as `measured`, and `rejects`."""

    def __init__(self, plan: BuildPlan, step: beam.DoFn | None = None) -> None:
        super().__init__()
        self._step = step or MeasureSource(
            plan.settings,
            plan.locations.work,
            limit=_limit(plan),
            num_processes=plan.num_processes,
        )

    def expand(self, input_or_inputs: Any) -> Any:
        """Return both outputs."""
        outputs = beam.ParDo(self._step).with_outputs(REJECTS, main=MEASURED)
        return input_or_inputs | "MeasureSource" >> outputs


class WriteDataset(beam.PTransform):
    """Writes the outputs of `MeasureSources`: rejects, tables, shards, and what was written."""

    def __init__(self, plan: BuildPlan, write_shard: beam.DoFn) -> None:
        super().__init__()
        self._plan = plan
        self._write_shard = write_shard

    def expand(self, input_or_inputs: Any) -> Any:
        """Return the number of shards."""
        measured, rejects = input_or_inputs[MEASURED], input_or_inputs[REJECTS]
        plan, locations = self._plan, self._plan.locations
        if not storage.is_url(locations.dataset):  # its workers do not make it
            Path(locations.dataset).mkdir(parents=True, exist_ok=True)
        write_rejects = WriteRejects(storage.join(locations.dataset, REJECTS_FILE), _limit(plan))
        num_rejects = (
            rejects
            | "GatherRejects" >> beam.combiners.ToList()
            | "WriteRejects" >> beam.ParDo(write_rejects)
        )
        _ = measured | "PublishQuality" >> beam.ParDo(_PublishQuality(locations.dataset))
        splits, limit = dict(plan.splits), plan.max_examples_per_split
        shards = (
            measured
            | "GatherSources" >> beam.combiners.ToList()
            # The number of rejects only makes this step wait until they are known to be few enough.
            | "PlanShards"
            >> beam.FlatMap(_plan, splits, limit, beam.pvalue.AsSingleton(num_rejects))
        )
        _ = (
            shards
            | "GroupBySplit" >> beam.GroupBy(lambda shard: shard.split)
            | "WriteLabelTables" >> beam.ParDo(_WriteLabelTables(locations.dataset))
        )
        return (
            shards
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteShards" >> beam.ParDo(self._write_shard)
            | "GatherShards" >> beam.combiners.ToList()
            | "RecordBuild" >> beam.ParDo(_RecordBuild(locations.work, plan.about))
        )


def _limit(plan: BuildPlan) -> RejectLimit:
    return RejectLimit(
        refusal=plan.locations.refusal,
        found=plan.rejects,
        total=plan.num_sources,
        max_rate=plan.max_reject_rate,
    )


def longest_first(sources: Iterable[LabeledSource]) -> list[LabeledSource]:
    """Order sources by expected work, the most first.

    The bytes of its clips predict the work of a source: long and detailed clips have many bytes,
    and take long to decode and encode.
    """
    return sorted(sources, key=lambda s: (-sum(file.size for _, file in s.clips), s.source_id))


def num_measured(work: Path) -> int:
    """Return the number of sources measured so far, including those of earlier builds."""
    return sum(1 for _ in work.glob(f"[!.]*{PAIRS_SUFFIX}"))  # the pairs are written last


def written_build(work: str) -> WrittenBuild:
    """Return what a finished pipeline has written."""
    record = json.loads(storage.read_bytes(storage.join(work, _WRITTEN_FILE)))
    shards: dict[str, list[WrittenShard]] = {}
    for row in record.pop("shards"):
        shards.setdefault(row["split"], []).append(WrittenShard(**row))
    return WrittenBuild(**record, shards=shards)


def _plan(
    measured: Sequence[MeasuredFiles],
    splits: Mapping[str, str],
    max_examples: int | None,
    num_rejects: int,
) -> list[Shard]:
    del num_rejects
    return plan_shards(measured, splits, max_examples)


class _PublishQuality(beam.DoFn):
    """Copies a source's rows into the dataset: one file, complete or absent."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset

    def process(self, measured: MeasuredFiles) -> Iterable[str]:
        location = storage.join(self._dataset, QUALITY_FOLDER, f"{measured.source_id}.parquet")
        content = storage.read_bytes(measured.quality)
        storage.check_not_removed(self._dataset)
        storage.write_bytes(location, content)
        yield location


class _WriteLabelTables(beam.DoFn):
    """Writes a split's label table, `labels/SPLIT.parquet`: the examples without their frames.

    Training reads its targets from there, not from gigabytes of frames.
    """

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset

    def process(self, element: tuple[str, Iterable[Shard]]) -> Iterable[str]:
        split, shards = element
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(label_rows(shards), schema=LABELS_SCHEMA), file)
        location = storage.join(self._dataset, LABELS_FOLDER, f"{split}.parquet")
        storage.check_not_removed(self._dataset)
        storage.write_bytes(location, file.getvalue())
        yield location


class _RecordBuild(beam.DoFn):
    """Writes a `WrittenBuild` to a file: it may be another process that publishes the dataset."""

    def __init__(self, work: str, about: Mapping[str, Any]) -> None:
        self._work = work
        self._about = about

    def process(self, shards: Sequence[WrittenShard]) -> Iterable[int]:
        rows = [
            asdict(shard) for shard in sorted(shards, key=lambda shard: (shard.split, shard.index))
        ]
        record = {"about": self._about, "made_by": made_by(), "shards": rows}
        storage.write_bytes(storage.join(self._work, _WRITTEN_FILE), json.dumps(record).encode())
        yield len(rows)
