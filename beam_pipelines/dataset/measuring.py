"""The heavy step of the datasets' pipeline: sources in, measured files out."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipelines.dataset.frame_pairs import PairSettings
from beam_pipelines.dataset.isolation import Crashed, Isolated
from beam_pipelines.dataset.measured_files import Measured, find_measured
from beam_pipelines.dataset.measured_source import measure_and_write
from beam_pipelines.elements import LabeledSource
from beam_pipelines.rejects import SOURCE, Reject
from beam_pipelines.rejects_table import REJECTS
from laser_dist.video.containers import VideoError

CLIP_SECONDS = 1800.0
"""Longest time for one clip. x264 takes 1 to 3 minutes for one of 1080p on one core."""


RejectOutput: TypeAlias = beam.pvalue.TaggedOutput[Literal["rejects"], Reject]
# What happened ("measured", "reused", "rejected"), what there is now, and what could not be used.
Outcome: TypeAlias = tuple[str, Measured | None, tuple[Reject, ...]]


class MeasureSources(beam.DoFn):
    """Measures every source that no earlier run has; what cannot be used goes to `rejects`."""

    def __init__(
        self,
        settings: PairSettings,
        folder: str,
        *,
        num_processes: int = 1,
        clip_seconds: float = CLIP_SECONDS,
        work: Callable[..., None] = measure_and_write,
    ) -> None:
        """Takes note of what to do.

        Args:
          settings: of the examples.
          folder: of the measured files.
          num_processes: codec's processes of this worker. On one machine a single worker has as
            many as there are cores, and whichever is free takes the next source: Beam's local
            runner would deal the sources out beforehand, and the last worker end alone.
          clip_seconds: longest time for one clip.
          work: what the codec's process does for a source.
        """
        self._settings = settings
        self._folder = folder
        self._clip_seconds = clip_seconds
        self._work = work
        self._num_processes = num_processes
        counter = beam.metrics.Metrics.counter
        self._counters = {
            name: counter("sources", name) for name in ("measured", "reused", "rejected")
        }
        self._clips_rejected = counter("clips", "rejected")

    def setup(self) -> None:
        """Makes room for the codec's processes, which start at their first source."""
        self._pool = ThreadPoolExecutor(self._num_processes)
        self._running: set[Future[Outcome]] = set()
        self._free: SimpleQueue[Isolated] = SimpleQueue()
        for _ in range(self._num_processes):
            self._free.put(Isolated(self._clip_seconds))

    def teardown(self) -> None:
        """Ends the codec's processes."""
        self._pool.shutdown()
        while not self._free.empty():
            self._free.get().close()

    def process(self, source: LabeledSource) -> Iterable[Measured | RejectOutput]:
        """Yields where measured sources lie, and the rejects of clips and sources.

        They are those of whichever sources are done: with several processes the last ones come
        when the bundle ends.
        """
        self._running.add(self._pool.submit(self._outcome, source))
        if len(self._running) >= self._num_processes:
            yield from self._finished()

    def finish_bundle(self) -> Iterable[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yields the rest."""
        window, start = GlobalWindow(), MIN_TIMESTAMP
        while self._running:
            for output in self._finished():
                if isinstance(output, beam.pvalue.TaggedOutput):
                    reject = WindowedValue(output.value, start, (window,))
                    yield beam.pvalue.TaggedOutput(output.tag, reject)
                else:
                    yield WindowedValue(output, start, (window,))

    def _finished(self) -> Iterable[Measured | RejectOutput]:
        """Waits for a source, or more, and tells what has become of it."""
        done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
        # Counted here: Beam's counters belong to the thread that runs the bundle.
        for future in done:
            outcome, measured, rejects = future.result()
            self._counters[outcome].inc()
            if measured is not None:
                self._clips_rejected.inc(len(rejects))
                yield measured
            for reject in rejects:
                yield beam.pvalue.TaggedOutput(REJECTS, reject)

    def _outcome(self, source: LabeledSource) -> Outcome:
        """What becomes of a source; runs in a thread that waits for a codec's process."""
        measured = find_measured(source, self._settings, self._folder)
        if measured is not None and measured.is_final:
            return "reused", measured, measured.rejects
        isolated = self._free.get()
        try:
            measured = self._measure(source, isolated)
        # No OSError: those of files of clips are VideoErrors, all others are no source's fault.
        except (VideoError, Crashed) as error:
            why = _told(error, source) if isinstance(error, Crashed) else str(error)
            reject = Reject(what=SOURCE, where=source.source_id, stage="measure", why=why)
            return "rejected", None, (reject,)
        finally:
            self._free.put(isolated)
        return "measured", measured, measured.rejects

    def _measure(self, source: LabeledSource, isolated: Isolated) -> Measured:
        """Measures in the codec's process; a clip that kills it costs that clip alone."""
        files = dict(source.clips)
        unusable: dict[int, str] = {}
        while True:
            arguments: tuple[Any, ...] = (source, self._settings, self._folder)
            try:
                isolated.call(self._work, *arguments, dict(unusable))
                break
            except Crashed as crash:
                # Without a step, or where no file can be left out, there is no other way.
                if crash.step in unusable or crash.step not in files:
                    raise
                unusable[crash.step] = crash.how
        measured = find_measured(source, self._settings, self._folder)
        if measured is None:
            raise RuntimeError(f"What was just written of {source.source_id} cannot be read.")
        return measured


def _told(crash: Crashed, source: LabeledSource) -> str:
    if crash.step is None:
        return f"{crash.how}, outside of any clip"
    return f"{crash.how}, at {source.scale.name} {crash.step}"
