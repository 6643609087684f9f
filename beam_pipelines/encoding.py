"""The encoding pipeline, on one machine or on Dataflow.

    list of clips ─ reshuffle ─▶ plan ─▶ segments ─ reshuffle ─▶ encode ─┐
                                  └─────────────────── group by clip ────┴─▶ join, compare, write

All that reads or writes video runs in child processes. A clip that cannot be encoded, or crashes
one, is a document with an error. A transient error (network, memory) is not: it is raised, and the
runner tries again.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput

from beam_pipelines.runner import new_pipeline, run_to_end, translate_failures
from laser_dist import storage
from laser_dist.encoding.encode import (
    CoarseClip,
    Planned,
    Request,
    check_source,
    encode_planned,
    planned,
)
from laser_dist.encoding.encoders import EncoderSettings
from laser_dist.encoding.folder import Encoder, Job, Unencoded, codec_process, crashed_clip
from laser_dist.encoding.segments import (
    EncodedPacket,
    EncodedSegment,
    Segment,
    Values,
    encode_segment,
    segments_of,
)
from laser_dist.errors import UserError
from laser_dist.isolation import Crashed, lacks_memory
from laser_dist.prediction.model import Model
from laser_dist.storage.local_copies import temporary_copy

SEGMENT_S = 60.0
"""Least length of a segment, so that reading a clip again costs little next to encoding it."""

_PLANS = "plans"
_SCRATCH = ".encoding"
_PACKETS = pa.schema(
    [
        ("pts", pa.int64()),
        ("dts", pa.int64()),
        ("duration", pa.int64()),
        ("is_keyframe", pa.bool_()),
        ("data", pa.large_binary()),  # of a clip that is not divided, more than 2 GB
    ]
)

NumberedJob = tuple[int, Job]
"""Position of a clip in the list, and what is to be encoded."""

NumberedSegment = tuple[int, int, Job, Segment]
"""Position of a clip, of a segment in it, the clip, and the segment.

No text: that of a path may not be UTF-8, as Beam's coder of text needs.
"""


@dataclass(frozen=True, kw_only=True)
class EncodingPlan:
    """Input, settings and output of an encoding.

    Attributes:
      jobs: clips and their outputs, paths or URLs, all different.
      output: folder of the outputs, a path or URL.
      load: loads the model; can be pickled.
      request: what is asked for.
      segment_s: least length of a segment in seconds.
    """

    jobs: tuple[Job, ...]
    output: str
    load: Callable[[], Model]
    request: Request
    segment_s: float = SEGMENT_S

    @property
    def scratch(self) -> str:
        """Folder of segments and documents, which is removed at the end."""
        return storage.join(self.output, _SCRATCH)

    def document(self, index: int) -> str:
        """Return the location of the document of a clip."""
        return storage.join(self.scratch, f"clip-{index:06}.json")

    def segment(self, index: int, number: int) -> str:
        """Return the location of an encoded segment of a clip."""
        return storage.join(self.scratch, f"clip-{index:06}-segment-{number:04}.parquet")


def encode_to_files(
    plan: EncodingPlan,
    options: PipelineOptions,
    on_start: Callable[[str], None] = lambda job: None,
) -> list[dict[str, Any]]:
    """Encode clips. Each output appears when it is complete, and stays if the job fails later.

    Args:
      plan: the encoding.
      options: options of the Beam runner.
      on_start: called with name and page of a Dataflow job.

    Returns:
      For each job the values of `Encoded.to_dict` or `Unencoded.to_dict`.

    Raises:
      UserError: the output folder cannot be written, or the job fails.
    """
    pipeline = new_pipeline(options)
    storage.check_writable(plan.output)
    storage.remove(plan.scratch)
    # Not in the pipeline itself: Dataflow limits the size of a job's description to 10 MB.
    listed = storage.join(plan.scratch, "clips.json")
    storage.write_text(listed, json.dumps([(job.source, job.output) for job in plan.jobs]))
    add_encoding(pipeline, plan, listed)
    try:
        with translate_failures(storage.join(plan.scratch, "rejects"), plan.output):
            run_to_end(pipeline, on_start)
        found = [json.loads(storage.read_bytes(plan.document(i))) for i in range(len(plan.jobs))]
    except (UserError, KeyboardInterrupt):  # after any other error, a job may go on elsewhere
        with suppress(UserError, OSError):
            storage.remove(plan.scratch)
        raise
    storage.remove(plan.scratch)
    return found


def add_encoding(pipeline: beam.Pipeline, plan: EncodingPlan, listed: str) -> None:
    """Add all steps to a pipeline.

    Args:
      pipeline: pipeline to extend.
      plan: the encoding.
      listed: path or URL of the list of its jobs, as JSON.
    """
    clips = (
        pipeline
        | "ListFile" >> beam.Create([listed])
        | "ListClips" >> beam.FlatMap(_numbered)
        | "SpreadClips" >> beam.Reshuffle()
        | "PlanClips" >> beam.ParDo(_PlanClip(plan)).with_outputs(_PLANS, main="segments")
    )
    segments = (
        clips["segments"]
        | "SpreadSegments" >> beam.Reshuffle()
        | "EncodeSegments" >> beam.ParDo(_EncodeSegment(plan))
    )
    _ = (
        {"plan": clips[_PLANS], "segments": segments}
        | "GroupByClip" >> beam.CoGroupByKey()
        | "JoinSegments" >> beam.ParDo(_JoinSegments(plan))
    )


class _PlanClip(beam.DoFn):
    """Predicts a clip and plans its quantizers: one element per segment, and one for the clip."""

    def __init__(self, plan: EncodingPlan) -> None:
        self._load, self._request, self._segment_s = plan.load, plan.request, plan.segment_s

    def setup(self) -> None:
        """Load the model."""
        self._encoder = Encoder(self._load())

    def process(self, element: NumberedJob) -> Iterable[Any]:
        """Yield the segments of a clip, none if it is refused, and its plan or the refusal."""
        index, job = element
        segments: list[Segment] = []
        with temporary_copy(job.source) as path:
            with _refusals(job.source, path) as refused:
                call = self._encoder.child.call
                call(_check, path, self._request)
                before = planned(self._encoder.model, path, self._request, call=call)
                segments = call(_segments, path, before[2], self._segment_s)
        found = refused[0] if refused else before
        yield TaggedOutput(_PLANS, (index, (job, found)))
        yield from ((index, number, job, segment) for number, segment in enumerate(segments))

    def teardown(self) -> None:
        """End the child process."""
        self._encoder.child.close()


def _check(path: Path, request: Request, _report: object) -> None:
    check_source(path, request)


def _segments(path: Path, values: Values, seconds: float, _report: object) -> list[Segment]:
    return segments_of(path, values, seconds)


class _EncodeSegment(beam.DoFn):
    """Encodes a segment into a table of packets."""

    def __init__(self, plan: EncodingPlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Start without a copy of a clip."""
        self._copy, self._child = _LastCopy(), codec_process()

    def process(self, element: NumberedSegment) -> Iterable[Any]:
        """Yield position of clip and segment, and the refusal or None."""
        index, number, job, segment = element
        path = self._copy.of(job.source)
        with _refusals(job.source, path) as refused:
            content = self._child.call(_packed, path, self._plan.request.settings, segment)
        if not refused:
            storage.write_bytes(self._plan.segment(index, number), content)
        yield index, (number, refused[0] if refused else None)

    def teardown(self) -> None:
        """End the child process, and remove the copy of the clip."""
        self._child.close()
        self._copy.remove()


def _packed(path: Path, settings: EncoderSettings, segment: Segment, _report: object) -> bytes:
    return packed(encode_segment(path, settings, segment))


class _JoinSegments(beam.DoFn):
    """Joins the segments of a clip, compares the file with the clip, and writes a document."""

    def __init__(self, plan: EncodingPlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Prepare a child process."""
        self._child = codec_process()

    def process(self, element: tuple[int, Mapping[str, Iterable[Any]]]) -> Iterable[int]:
        """Yield the position of the clip, once its output and document are written."""
        index, grouped = element
        if storage.exists(self._plan.document(index)):  # an earlier try has removed the segments
            yield index
            return
        ((job, found),) = grouped["plan"]
        segments = dict(grouped["segments"])
        places = [self._plan.segment(index, number) for number in sorted(segments)]
        refused = [each for each in (found, *segments.values()) if isinstance(each, Unencoded)]
        document = refused[0].to_dict() if refused else self._joined(job, found, places)
        storage.write_text(self._plan.document(index), json.dumps(document, allow_nan=False))
        for place in places:
            storage.remove(place)
        yield index

    def _joined(self, job: Job, before: Planned, places: Sequence[str]) -> dict[str, Any]:
        with temporary_copy(job.source) as path, _written(job.output) as output:
            with _refusals(job.source, path) as refused:
                encoded = encode_planned(
                    path, output, self._plan.request, before,
                    segments=_StoredSegments(tuple(places)), call=self._child.call,
                )  # fmt: skip
                names = {"clip": job.source, "output": job.output, "ffmpeg": None}
                return {**encoded.to_dict(), **names}
        return refused[0].to_dict()

    def teardown(self) -> None:
        """End the child process."""
        self._child.close()


def packed(segment: EncodedSegment) -> bytes:
    """Return a segment as a table in a Parquet file."""
    base = segment.time_base
    about = {"headers": segment.headers, "time_base": f"{base.numerator}/{base.denominator}"}
    table = pa.Table.from_pylist(
        [each._asdict() for each in segment.packets], schema=_PACKETS.with_metadata(about)
    )
    file = io.BytesIO()
    pq.write_table(table, file, compression="none")
    return file.getvalue()


def unpacked(content: bytes) -> EncodedSegment:
    """Return the segment of `packed`."""
    table = pq.read_table(pa.BufferReader(content))
    about = table.schema.metadata
    return EncodedSegment(
        headers=about[b"headers"],
        time_base=Fraction(about[b"time_base"].decode()),
        packets=tuple(EncodedPacket(**row) for row in table.to_pylist()),
    )


class _Unreadable(RuntimeError):
    """A segment cannot be read: no fault of the clip, so the runner tries again."""


@dataclass(frozen=True)
class _StoredSegments:
    """Segments, each of which is read when it is needed."""

    places: tuple[str, ...]

    def __iter__(self) -> Iterator[EncodedSegment]:
        for place in self.places:
            try:
                content = storage.read_bytes(place)
            except (UserError, OSError) as error:
                raise _Unreadable(str(error)) from error
            yield unpacked(content)


class _LastCopy:
    """The local copy of the last clip: a worker often gets several segments of one."""

    def __init__(self) -> None:
        self._clip: str | None = None
        self._exit = ExitStack()

    def of(self, clip: str) -> Path:
        """Return the path of a clip, downloaded if it is in a bucket."""
        if clip != self._clip:
            self.remove()
            self._path = self._exit.enter_context(temporary_copy(clip))
            self._clip = clip
        return self._path

    def remove(self) -> None:
        """Remove the copy."""
        self._exit.close()
        self._clip = None


@contextmanager
def _refusals(clip: str, path: Path) -> Iterator[list[Unencoded]]:
    """Turn a refusal of a clip into an element of the list that is yielded.

    Args:
      clip: its path or URL, for messages.
      path: where it was read.
    """
    found: list[Unencoded] = []
    try:
        yield found
    except UserError as error:
        if lacks_memory(error):
            raise
        named = error.naming(str(path), clip)
        found.append(Unencoded(clip, named.message, named.hint, isinstance(error, CoarseClip)))
    except Crashed as end:
        found.append(crashed_clip(clip, end))


@contextmanager
def _written(output: str) -> Iterator[Path]:
    """Yield a path for an output; one in a bucket is uploaded after the block."""
    if not storage.is_url(output):
        yield Path(output)
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, storage.split(output)[1])
        yield path  # noqa: RUF075 - after an error, nothing is uploaded
        if path.exists():
            storage.upload(path, output)


def _numbered(listed: str) -> Iterator[NumberedJob]:
    jobs = json.loads(storage.read_bytes(listed))
    yield from enumerate(Job(source, output) for source, output in jobs)
