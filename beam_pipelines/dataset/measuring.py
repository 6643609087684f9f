"""The expensive step of the dataset pipeline: measures sources in codec processes."""

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import apache_beam as beam

from beam_pipelines.dataset.frame_pairs import measure_and_write
from beam_pipelines.dataset.measured_files import MeasuredFiles, find_measured
from beam_pipelines.elements import LabeledSource, PairSettings
from beam_pipelines.parallel import InChildProcesses
from beam_pipelines.rejects import SOURCE, Reject, RejectLimit
from beam_pipelines.runner import REJECTS
from laser_dist.isolation import Crashed, Isolated
from laser_dist.video.containers import VideoError

CLIP_SECONDS = 1800.0
"""Time limit for one clip. x264 takes 1 to 3 minutes for a 1080p clip on one core."""

RejectOutput: TypeAlias = beam.pvalue.TaggedOutput[Literal["rejects"], Reject]
# The outcome ("measured", "reused", "rejected"), the files, and what could not be used.
Outcome: TypeAlias = tuple[str, MeasuredFiles | None, tuple[Reject, ...]]


class MeasureSource(InChildProcesses):
    """Measures every source that no earlier build has measured; emits `rejects` too."""

    def __init__(
        self,
        settings: PairSettings,
        folder: str,
        *,
        limit: RejectLimit,
        num_processes: int = 1,
        clip_seconds: float = CLIP_SECONDS,
        measure: Callable[..., None] = measure_and_write,
        isolate: Callable[[float | None], Isolated] = Isolated,
    ) -> None:
        """Store the arguments.

        Args:
          settings: settings of the examples.
          folder: folder of the measured files.
          limit: when there are too many rejects; each Beam worker checks its own.
          num_processes: number of codec processes of each Beam worker.
          clip_seconds: time limit for one clip.
          measure: what a codec process does for a source.
          isolate: creates a codec process with a time limit per step.
        """
        super().__init__(num_processes, step_seconds=clip_seconds, isolate=isolate)
        self._settings = settings
        self._folder = folder
        self._limit = limit
        self._measure_and_write = measure
        counter = beam.metrics.Metrics.counter
        self._counters = {
            name: counter("sources", name) for name in ("measured", "reused", "rejected")
        }
        self._clips_rejected = counter("clips", "rejected")

    def setup(self) -> None:
        """Prepare the codec processes."""
        super().setup()
        self._rejects: list[Reject] = []

    def outputs(self, outcome: Outcome) -> Iterable[MeasuredFiles | RejectOutput]:
        """Yield measured files and rejects; fail as soon as there are too many rejects."""
        what, measured, rejects = outcome
        self._counters[what].inc()
        if measured is not None:
            self._clips_rejected.inc(len(rejects))
            yield measured
        for reject in rejects:
            yield beam.pvalue.TaggedOutput(REJECTS, reject)
        if rejects:
            self._rejects += rejects
            self._limit.check(self._rejects)

    def work(self, source: LabeledSource) -> Outcome:
        """Measure a source; runs in a thread that waits for a codec process."""
        measured = find_measured(source, self._settings, self._folder)
        if measured is not None and measured.is_final:
            return "reused", measured, measured.rejects
        try:
            measured = self._measure(source)
        # Not UserError: storage that cannot be read or written is no source's fault.
        except (VideoError, Crashed) as error:
            if isinstance(error, Crashed):
                step = "" if error.step is None else f", at {source.scale.name} {error.step}"
                why = error.how + (step or ", not at a clip")
            else:
                why = error.message
            reject = Reject(what=SOURCE, where=source.source_id, stage="measure", why=why)
            return "rejected", None, (reject,)
        return "measured", measured, measured.rejects

    def _measure(self, source: LabeledSource) -> MeasuredFiles:
        """Measure in a codec process; if a clip crashes it, try again without the clip."""
        files = dict(source.clips)
        unusable: dict[int, str] = {}
        while True:
            try:
                self.in_child(
                    self._measure_and_write, source, self._settings, self._folder, dict(unusable)
                )
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
