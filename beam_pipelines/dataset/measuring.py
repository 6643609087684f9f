"""The expensive step of the dataset pipeline: measures sources in codec processes."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipelines.dataset.frame_pairs import measure_and_write
from beam_pipelines.dataset.isolation import Crashed, Isolated
from beam_pipelines.dataset.measured_files import MeasuredFiles, find_measured
from beam_pipelines.elements import LabeledSource, PairSettings
from beam_pipelines.rejects import SOURCE, Reject
from beam_pipelines.runner import REJECTS
from laser_dist.video.containers import VideoError

CLIP_SECONDS = 1800.0
"""Time limit for one clip. x264 takes 1 to 3 minutes for a 1080p clip on one core."""

RejectOutput: TypeAlias = beam.pvalue.TaggedOutput[Literal["rejects"], Reject]
# The outcome ("measured", "reused", "rejected"), the files, and what could not be used.
Outcome: TypeAlias = tuple[str, MeasuredFiles | None, tuple[Reject, ...]]


class MeasureSources(beam.DoFn):
    """Measures every source that no earlier build has measured; emits `rejects` too."""

    def __init__(
        self,
        settings: PairSettings,
        folder: str,
        *,
        num_processes: int = 1,
        clip_seconds: float = CLIP_SECONDS,
        work: Callable[..., None] = measure_and_write,
        isolate: Callable[[float], Isolated] = Isolated,
    ) -> None:
        """Store the arguments.

        Args:
          settings: settings of the examples.
          folder: folder of the measured files.
          num_processes: number of codec processes of this worker. On one machine, a single worker
            has one per core, and the next free one takes the next source: Beam's local runner would
            distribute the sources in advance, and leave all but the slowest worker idle at the end.
          clip_seconds: time limit for one clip.
          work: what a codec process does for a source.
          isolate: creates a codec process with a time limit per step.
        """
        self._settings = settings
        self._folder = folder
        self._clip_seconds = clip_seconds
        self._work = work
        self._isolate = isolate
        self._num_processes = num_processes
        counter = beam.metrics.Metrics.counter
        self._counters = {
            name: counter("sources", name) for name in ("measured", "reused", "rejected")
        }
        self._clips_rejected = counter("clips", "rejected")

    def setup(self) -> None:
        """Prepare the codec processes, which start at their first source."""
        self._pool = ThreadPoolExecutor(self._num_processes)
        self._running: set[Future[Outcome]] = set()
        self._free: SimpleQueue[Isolated] = SimpleQueue()
        for _ in range(self._num_processes):
            self._free.put(self._isolate(self._clip_seconds))

    def teardown(self) -> None:
        """Stop the codec processes."""
        self._pool.shutdown()
        while not self._free.empty():
            self._free.get().close()

    def process(self, source: LabeledSource) -> Iterable[MeasuredFiles | RejectOutput]:
        """Yield measured files and rejects of whichever sources are finished.

        With several processes, the last ones are emitted when the bundle ends.
        """
        self._running.add(self._pool.submit(self._outcome, source))
        if len(self._running) >= self._num_processes:
            yield from self._finished()

    def finish_bundle(self) -> Iterable[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the rest."""
        window, start = GlobalWindow(), MIN_TIMESTAMP
        while self._running:
            for output in self._finished():
                if isinstance(output, beam.pvalue.TaggedOutput):
                    reject = WindowedValue(output.value, start, (window,))
                    yield beam.pvalue.TaggedOutput(output.tag, reject)
                else:
                    yield WindowedValue(output, start, (window,))

    def _finished(self) -> Iterable[MeasuredFiles | RejectOutput]:
        """Wait for one or more sources and yield their outcome."""
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
        """Measure a source; runs in a thread that waits for a codec process."""
        measured = find_measured(source, self._settings, self._folder)
        if measured is not None and measured.is_final:
            return "reused", measured, measured.rejects
        isolated = self._free.get()
        try:
            measured = self._measure(source, isolated)
        # Not OSError: those of clips are VideoErrors, and all others are no source's fault.
        except (VideoError, Crashed) as error:
            if isinstance(error, Crashed):
                step = "" if error.step is None else f", at {source.scale.name} {error.step}"
                why = error.how + (step or ", not at a clip")
            else:
                why = error.message
            reject = Reject(what=SOURCE, where=source.source_id, stage="measure", why=why)
            return "rejected", None, (reject,)
        finally:
            self._free.put(isolated)
        return "measured", measured, measured.rejects

    def _measure(self, source: LabeledSource, isolated: Isolated) -> MeasuredFiles:
        """Measure in a codec process; if a clip crashes it, try again without the clip."""
        files = dict(source.clips)
        unusable: dict[int, str] = {}
        while True:
            try:
                isolated.call(self._work, source, self._settings, self._folder, dict(unusable))
                break
            except Crashed as crash:
                # Without a step, or with a step that has no file, there is nothing to leave out.
                if crash.step in unusable or crash.step not in files:
                    raise
                unusable[crash.step] = crash.how
        measured = find_measured(source, self._settings, self._folder)
        if measured is None:
            raise RuntimeError(f"The files just written for {source.source_id} cannot be read.")
        return measured
