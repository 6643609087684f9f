"""The prediction pipeline, on one machine or on Dataflow.

    list of clips ─ reshuffle ─▶ RunInference ─▶ group by table ─▶ write

A clip that cannot be predicted is a row with an error. A transient error (network, memory) is not a
row: it is raised, and the runner tries again.
"""

import io
import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.parallel import ChildProcesses
from beam_pipelines.rejects import utf8_text
from beam_pipelines.runner import new_pipeline, run_to_end
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.isolation import Crashed, Isolated, lacks_memory
from laser_dist.prediction.clips import FailedClip, Sampling, Take, predict_clip, read_clip
from laser_dist.prediction.isolated import MAX_STEP_S, unreadable
from laser_dist.prediction.predict import ClipPrediction
from laser_dist.prediction.predictor import Predictor
from laser_dist.storage.local_copies import temporary_copy
from laser_dist.video.containers import Damage
from laser_dist.video.facts import ClipFacts

ROWS_PER_TABLE = 10_000
_LIST_FILE = ".clips.json"
_CLIPS_PER_PROCESS = 16  # in a batch


def _per_level(kind: pa.DataType) -> pa.DataType:
    return pa.struct([(f"jnd{level}", kind) for level in (1, 2, 3)])


_SCENE = pa.struct(
    [
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("first_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("quantizers", _per_level(pa.int32())),
        ("levels", _per_level(pa.float64())),
        ("timestamps_s", pa.list_(pa.float64())),
        ("levels_per_frame", _per_level(pa.list_(pa.float64()))),
        ("spreads", _per_level(pa.float64())),
    ]
)
TABLE_SCHEMA = pa.schema(
    [
        pa.field("schema", pa.int32(), nullable=False),
        pa.field("clip", pa.string(), nullable=False),
        ("scale", pa.string()),
        ("sur", pa.float64()),
        ("quantizers", _per_level(pa.int32())),
        ("quantizers_p10", _per_level(pa.int32())),
        ("levels", _per_level(pa.float64())),
        ("scenes", pa.list_(_SCENE)),
        ("model", pa.string()),
        ("runtime", pa.string()),
        ("variant", pa.string()),
        ("simulated", pa.bool_()),
        ("warnings", pa.list_(pa.string())),
        ("spreads", _per_level(pa.float64())),
        ("interval", pa.float64()),
        ("half_widths", _per_level(pa.float64())),
        ("error", pa.string()),
        ("hint", pa.string()),
    ]
)
"""Columns of a table: the keys of `ClipPrediction.to_dict` and of `FailedClip.to_dict`."""

NumberedClip = tuple[int, bytes]
"""Position of a clip in the list, and its path or URL: bytes, as a path may be no valid text."""

Row = tuple[int, dict[str, Any]]
"""Position of a clip in the list, and its result as plain values."""


@dataclass(frozen=True, kw_only=True)
class PredictionPlan:
    """Input, settings and output of a prediction.

    Attributes:
      clips: paths or URLs.
      output: folder of the tables, a path or URL.
      load: loads the predictor; can be pickled.
      sampling: which frames to read, of the predictor's size.
      sur: satisfied-user ratio to target; see `check_sur`.
      interval: share of clips for the intervals; see `check_interval`.
      num_processes: number of child processes that read clips, of each Beam worker.
    """

    clips: tuple[str, ...]
    output: str
    load: Callable[[], Predictor]
    sampling: Sampling
    sur: float
    interval: float
    num_processes: int = 1

    @property
    def tables(self) -> list[str]:
        """Locations of the tables; a table has the clips of a part of the list, in its order."""
        count = -(-len(self.clips) // ROWS_PER_TABLE)
        names = (f"levels-{number:05}-of-{count:05}.parquet" for number in range(count))
        return [storage.join(self.output, name) for name in names]


def predict_to_tables(
    plan: PredictionPlan,
    options: PipelineOptions,
    on_start: Callable[[str], None] = lambda job: None,
) -> int:
    """Predict clips and write the tables, all or none.

    Args:
      plan: the prediction.
      options: options of the Beam runner.
      on_start: called with name and page of a Dataflow job.

    Returns:
      The number of rows with an error.

    Raises:
      UserError: the output folder has files already or cannot be written, or the job fails.
    """
    pipeline = new_pipeline(options)
    if any(not name.startswith(".") for name in storage.list_folder(plan.output)):
        raise UserError(
            f"{plan.output} has files already.", hint="Remove them, or name another --output."
        )
    storage.check_writable(plan.output)
    # Not in the pipeline itself: Dataflow limits the size of a job's description to 10 MB.
    listed = storage.join(plan.output, _LIST_FILE)
    storage.write_text(listed, json.dumps(plan.clips))
    add_prediction(pipeline, plan, listed)
    try:
        run_to_end(pipeline, on_start)
    except BaseException:
        with suppress(UserError, OSError):
            for table in plan.tables:
                storage.remove(table)
        raise
    finally:
        storage.remove(listed)
    return sum(map(_num_errors, plan.tables))


def add_prediction(pipeline: beam.Pipeline, plan: PredictionPlan, listed: str) -> None:
    """Add all steps to a pipeline.

    Args:
      pipeline: pipeline to extend.
      plan: the prediction.
      listed: path or URL of the list of its clips, as JSON.
    """
    _ = (
        pipeline
        | "ListFile" >> beam.Create([listed])
        | "ListClips" >> beam.FlatMap(_numbered)
        | "SpreadClips" >> beam.Reshuffle()
        | "RunInference" >> RunInference(PredictClips(plan))
        | "KeyByTable" >> beam.Map(lambda row: (row[0] // ROWS_PER_TABLE, row))
        | "GroupByTable" >> beam.GroupByKey()
        | "WriteTables" >> beam.ParDo(_WriteTable(plan.tables))
    )


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """What a Beam worker process needs to predict clips.

    Attributes:
      predictor: predicts frames; several threads use it.
      readers: child processes that read clips.
    """

    predictor: Predictor
    readers: ChildProcesses


class PredictClips(ModelHandler[NumberedClip, Row, LoadedModel]):
    """Predicts clips for Beam's `RunInference`.

    Child processes read the clips. This process downloads them and runs the model, in threads.
    """

    def __init__(
        self,
        plan: PredictionPlan,
        *,
        step_seconds: float = MAX_STEP_S,
        isolate: Callable[[float | None], Isolated] = Isolated,
    ) -> None:
        """Store the arguments.

        Args:
          plan: the prediction.
          step_seconds: time limit for reading a part of a clip.
          isolate: creates a child process with a time limit per step.
        """
        # At the end of a batch, some processes wait for others.
        size = _CLIPS_PER_PROCESS * plan.num_processes
        super().__init__(min_batch_size=size, max_batch_size=size)
        self._load = plan.load
        self._num_processes = plan.num_processes
        self._sampling = plan.sampling
        self._sur, self._interval = plan.sur, plan.interval
        self._step_seconds = step_seconds
        self._isolate = isolate

    def load_model(self) -> LoadedModel:
        """Load the predictor, once in each Beam worker process."""
        readers = ChildProcesses(self._num_processes, self._step_seconds, self._isolate)
        model = LoadedModel(self._load(), readers)
        weakref.finalize(model, readers.close)  # Beam has no other end of a model
        return model

    def run_inference(
        self,
        batch: Sequence[NumberedClip],
        model: LoadedModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Row]:
        """Return a row for each clip.

        Raises:
          UserError: a bucket cannot be read, or the memory is short.
        """
        # Twice as many threads as processes: while one clip is read, another is downloaded or
        # predicted.
        with ThreadPoolExecutor(2 * self._num_processes) as pool:
            futures = [pool.submit(self._row, model, *element) for element in batch]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _row(self, model: LoadedModel, index: int, name: bytes) -> Row:
        result = self._result(model, os.fsdecode(name)).to_dict()
        return index, {
            key: utf8_text(value) if isinstance(value, str) else value
            for key, value in result.items()
        }

    def _result(self, model: LoadedModel, clip: str) -> ClipPrediction | FailedClip:
        with temporary_copy(clip) as path:

            def predicted(child: Isolated) -> ClipPrediction:
                def read(take: Take) -> tuple[ClipFacts, Damage]:
                    return child.call(read_clip, path, self._sampling, on_step=take)

                return predict_clip(
                    model.predictor, read, clip=clip, sur=self._sur, interval=self._interval
                )

            try:
                return model.readers.lend(predicted)
            except Crashed as crash:
                error = unreadable(clip, crash)
            except UserError as refusal:
                if lacks_memory(refusal):
                    raise
                error = refusal.naming(str(path), clip)
        return FailedClip(clip=clip, message=error.message, hint=error.hint)


class _WriteTable(beam.DoFn):
    """Writes a table: complete or absent, and the same when it is repeated."""

    def __init__(self, tables: Sequence[str]) -> None:
        self._tables = tables

    def process(self, element: tuple[int, Iterable[Row]]) -> Iterable[str]:
        number, rows = element
        ordered = [row for _, row in sorted(rows, key=lambda row: row[0])]
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(ordered, schema=TABLE_SCHEMA), file)
        storage.write_bytes(self._tables[number], file.getvalue())
        yield self._tables[number]


def _numbered(listed: str) -> Iterator[NumberedClip]:
    yield from enumerate(map(os.fsencode, json.loads(storage.read_bytes(listed))))


def _num_errors(table: str) -> int:
    with storage.open_binary(table) as file:
        errors = pq.read_table(file, columns=["error"])["error"]
    return len(errors) - errors.null_count
