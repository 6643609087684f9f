"""Pipeline that makes a synthetic VideoSet or MCL-JCI from footage.

    footage ─ draw takes ─▶ film ─▶ encode at each quantizer ─▶ judge ─▶ clips, labels, marker

Everything is real except the viewers, who are simulated. The folder has the layout of the real
dataset, so the same builder reads both.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.parallel import InChildProcesses
from beam_pipelines.rejects import REJECTS_FILE, SOURCE, Reject, RejectLimit
from beam_pipelines.runner import (
    REJECTS,
    WriteRejects,
    new_pipeline,
    num_processes,
    run_to_end,
    translate_failures,
)
from beam_pipelines.synthetic.footage import Footage, Take, draw_takes
from beam_pipelines.synthetic.mcl_jci import MclJciSettings
from beam_pipelines.synthetic.videoset import VideosetSettings
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.isolation import Crashed
from laser_dist.simulation import MARKER_NAME
from laser_dist.video.containers import VideoError

Settings = VideosetSettings | MclJciSettings


class ProduceSources(InChildProcesses):
    """Calls `Settings.produce` for every take; what cannot be made goes to the output `rejects`."""

    def __init__(
        self, settings: Settings, folder: Path, limit: RejectLimit, num_processes: int
    ) -> None:
        super().__init__(num_processes)
        self._limit = limit
        self._settings = settings
        self._folder = folder
        self._made = beam.metrics.Metrics.counter("sources", "made")
        self._rejected = beam.metrics.Metrics.counter("sources", "rejected")

    def setup(self) -> None:
        """Prepare the child processes."""
        super().setup()
        self._rejects: list[Reject] = []

    def work(self, take: Take) -> Any:
        """Return the source's labels, or a reject."""
        try:
            return self.in_child(self._settings.produce, take, self._folder)
        except (VideoError, Crashed) as error:
            where = f"{self._settings.source_id(take.source_index)} from {take.footage.path}"
            return Reject(what=SOURCE, where=where, stage="make", why=error.message.rstrip("."))

    def outputs(
        self, outcome: Any
    ) -> Iterable[Any | beam.pvalue.TaggedOutput[Literal["rejects"], Reject]]:
        """Yield the labels or the reject; fail as soon as there are too many rejects."""
        is_reject = isinstance(outcome, Reject)
        (self._rejected if is_reject else self._made).inc()
        yield beam.pvalue.TaggedOutput(REJECTS, outcome) if is_reject else outcome
        if is_reject:
            self._rejects.append(outcome)
            self._limit.check(self._rejects)


class FinishFolder(beam.DoFn):
    """Writes the labels of all sources, then the marker."""

    def __init__(self, settings: Settings, folder: Path, marker: dict[str, object]) -> None:
        self._settings = settings
        self._folder = folder
        self._marker = marker

    def process(self, labels: Sequence[Any]) -> Iterable[int]:
        """Yield the number of sources written."""
        self._settings.write_labels(labels, self._folder)
        (self._folder / MARKER_NAME).write_text(marker_text(self._marker))
        yield len(labels)


def synthesize(
    footage: Sequence[Footage],
    settings: Settings,
    folder: Path,
    options: PipelineOptions,
    *,
    left_out: Sequence[Reject] = (),
    on_progress: Callable[[int], None] = lambda num_finished: None,
) -> None:
    """Make a synthetic dataset; `folder` is complete or absent.

    The same footage and settings give the same files, whatever the number of workers.

    Args:
      footage: photographs and videos, at least one.
      settings: settings of the dataset.
      folder: output folder; a synthetic dataset in it is replaced.
      options: options of the Beam runner.
      left_out: rejected files, for the table of rejects.
      on_progress: called regularly with the number of finished sources.

    Raises:
      UserError: the folder cannot be written or holds something else, a video is too short, or more
        than 5% of the sources cannot be made; a table of the rejects is then written next to it.
    """
    takes = draw_takes(footage, settings)
    marker = marker_of(takes, settings)
    refusal = folder.with_name(f"{folder.name}-{REJECTS_FILE}")
    with (
        complete_folder(folder) as unfinished,
        translate_failures(refusal, folder),
    ):
        pipeline = new_pipeline(options)
        limit = RejectLimit(refusal=refusal, found=left_out, total=len(takes))
        produce_sources = ProduceSources(settings, unfinished, limit, num_processes(options))
        sources = (
            pipeline
            | "Takes" >> beam.Create(takes)
            | "FilmEncodeJudge" >> beam.ParDo(produce_sources).with_outputs(REJECTS, main="made")
        )
        _ = (
            sources[REJECTS]
            | "GatherRejects" >> beam.combiners.ToList()
            | "WriteRejects" >> beam.ParDo(WriteRejects(unfinished / REJECTS_FILE, limit))
        )
        _ = (
            sources["made"]
            | "GatherLabels" >> beam.combiners.ToList()
            | "FinishFolder" >> beam.ParDo(FinishFolder(settings, unfinished, marker))
        )
        run_to_end(
            pipeline,
            on_poll=lambda: on_progress(sum(1 for _ in unfinished.glob(settings.last_files))),
        )


def marker_of(takes: Sequence[Take], settings: Settings) -> dict[str, object]:
    """Return the content of `SIMULATED.json`: viewers, settings, and the groups of sources."""
    return {
        "simulated": True,
        "simulated_viewers": settings.viewers,
        "fingerprint": fingerprint(takes, settings),
        **settings.provenance,
        "settings": asdict(settings),
        "groups": {settings.source_id(take.source_index): take.footage.group_id for take in takes},
    }


def marker_text(marker: dict[str, object]) -> str:
    """Format the marker as JSON, with lists of plain numbers on one line each."""
    text = json.dumps(marker, indent=2)
    # JSON strings contain no bare line break, so only lists can match.
    return re.sub(r"\[\n([^][{}\"]*)\n *\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def fingerprint(takes: Sequence[Take], settings: Settings) -> str:
    """Hash settings, cuts and the footage's names and sizes in bytes: 16 hex digits."""
    sizes = {take.footage.path: take.footage.path.stat().st_size for take in takes}
    parts = [
        asdict(settings),
        [
            (take.source_index, take.footage.group_id, sizes[take.footage.path], asdict(take.cut))
            for take in takes
        ],
        settings.encoder,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Provide a folder to work in that gets its final name only if the work succeeds.

    Only one process at a time may work toward a folder.

    Args:
      folder: final name. An existing folder is replaced at the end, by two renames, if it is empty
        or a synthetic dataset: other files are never removed.

    Yields:
      The unfinished folder next to it, hidden and empty but for our mark. It is removed if the work
      fails.

    Raises:
      UserError: the location cannot be written, or holds something else.
    """
    folder = folder.absolute()
    check_output(folder)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        storage.mark_folder(unfinished)
        shutil.rmtree(unfinished)  # of a process that was killed
        storage.mark_folder(unfinished)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield unfinished
        try:
            with storage.set_aside(folder):
                unfinished.rename(folder)
                (folder / storage.MARK).unlink()
        except OSError as error:
            raise _cannot_write(folder, error) from error
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def check_output(folder: Path) -> None:
    """Check that a folder is new, empty, or a synthetic dataset.

    Raises:
      UserError: it is not.
    """
    try:
        is_free = (
            not folder.exists() or (folder / MARKER_NAME).exists() or not any(folder.iterdir())
        )
    except OSError as error:  # a file, or a folder without permission
        raise _cannot_write(folder, error) from error
    if not is_free:
        raise UserError(
            f"{folder} holds files that do not belong to a synthetic dataset.",
            hint="Name a new folder with --output.",
        )


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"Output folder {folder} cannot be written: {error.strerror or error}.",
        hint="Fix the problem, or name another folder with --output.",
    )
