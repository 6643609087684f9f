"""The encoding pipeline, on one machine or on Dataflow.

    list of clips ─ reshuffle ─▶ plan ─▶ segments ─ reshuffle ─▶ encode ─┐
                                  └─────────────────── group by clip ────┴─▶ join, compare, write

All that reads or writes video runs in child processes. A clip that cannot be encoded, or crashes
one, is a document with an error. A transient error (network, memory) is not: it is raised, and the
runner tries again.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput

from beam_pipelines.parallel import ChildProcesses
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
from laser_dist.encoding.folder import Job, Unencoded, codec_process, lost_clip
from laser_dist.encoding.segments import Segment, encode_segment, segments_of
from laser_dist.encoding.stored_segments import StoredSegments, packed
from laser_dist.errors import UserError
from laser_dist.isolation import Crashed, Isolated, OutOfMemory, lacks_memory, without_steps
from laser_dist.prediction.isolated import IsolatedReader
from laser_dist.prediction.model import Model
from laser_dist.storage.local_copies import temporary_copy
from laser_dist.video.containers import VideoError

SEGMENT_S = 60.0
"""Least length of a segment, so that reading a clip again costs little next to encoding it."""

_PLANS = "plans"
_SCRATCH = ".encoding"
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
        self._reader, self._children = IsolatedReader(), _one_child()
        self._model = Model(self._load().predictor, reader=self._reader)

    def process(self, element: NumberedJob) -> Iterable[Any]:
        """Yield the segments of a clip, none if it is refused, and its plan or the refusal."""
        index, job = element
        segments: list[Segment] = []
        with temporary_copy(job.source) as path:
            with _refusals(job.source, path) as refused:
                before, segments = self._children.lend(partial(self._planned, path))
        found = refused[0] if refused else before
        yield TaggedOutput(_PLANS, (index, (job, found)))
        yield from ((index, number, job, segment) for number, segment in enumerate(segments))

    def teardown(self) -> None:
        """End the child processes."""
        self._children.close()
        self._reader.close()

    def _planned(self, path: Path, child: Isolated) -> tuple[Planned, list[Segment]]:
        child.call(without_steps, check_source, path, self._request)
        try:
            before = planned(self._model, path, self._request, call=child.call)
        except VideoError as error:
            if isinstance(error.__cause__, OutOfMemory):
                raise error.__cause__ from error
            raise
        segments = child.call(without_steps, segments_of, path, before[2], self._segment_s)
        return before, segments


class _EncodeSegment(beam.DoFn):
    """Encodes a segment into a table of packets."""

    def __init__(self, plan: EncodingPlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Start without a copy of a clip."""
        self._copy, self._children = _LastCopy(), _one_child()

    def process(self, element: NumberedSegment) -> Iterable[Any]:
        """Yield position of clip and segment, and the refusal or None."""
        index, number, job, segment = element
        path = self._copy.of(job.source)
        with _refusals(job.source, path) as refused:
            settings = self._plan.request.settings
            words = (without_steps, encode_segment, path, settings, segment)
            encoded = self._children.lend(lambda child: child.call(*words))
        if not refused:
            storage.write_bytes(self._plan.segment(index, number), packed(encoded))
        yield index, (number, refused[0] if refused else None)

    def teardown(self) -> None:
        """End the child process, and remove the copy of the clip."""
        self._children.close()
        self._copy.remove()


class _JoinSegments(beam.DoFn):
    """Joins the segments of a clip, compares the file with the clip, and writes a document."""

    def __init__(self, plan: EncodingPlan) -> None:
        self._plan = plan

    def setup(self) -> None:
        """Prepare a child process."""
        self._children = _one_child()

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
                encoded = self._children.lend(
                    lambda child: encode_planned(
                        path, output, self._plan.request, before,
                        segments=StoredSegments(tuple(places)), call=child.call,
                    )
                )  # fmt: skip
                names = {"clip": job.source, "output": job.output, "ffmpeg": None}
                return {**encoded.to_dict(), **names}
        return refused[0].to_dict()

    def teardown(self) -> None:
        """End the child process."""
        self._children.close()


def _one_child() -> ChildProcesses:
    return ChildProcesses(1, isolate=lambda step_seconds: codec_process())


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
        found.append(lost_clip(clip, end))


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
