"""The heavy step of the datasets' pipeline: sources in, measured files out."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import apache_beam as beam

from beam_pipelines.dataset.frame_pairs import PairSettings
from beam_pipelines.dataset.isolation import Crashed, Isolated
from beam_pipelines.dataset.measured_files import Measured, find_measured
from beam_pipelines.dataset.measured_source import measure_and_write
from beam_pipelines.elements import JudgedSource
from beam_pipelines.rejects import SOURCE, Reject
from beam_pipelines.rejects_table import REJECTS
from laser_dist.video.codec import VideoError

CLIP_SECONDS = 1800.0
"""Longest time for one clip. x264 takes 1 to 3 minutes for one of 1080p on one core."""


class MeasureSources(beam.DoFn):
    """Measures every source that no earlier run has; what cannot be used goes to `rejects`."""

    def __init__(
        self,
        settings: PairSettings,
        folder: str,
        flags: tuple[str, ...] = (),
        *,
        clip_seconds: float = CLIP_SECONDS,
        work: Callable[..., None] = measure_and_write,
    ) -> None:
        """Takes note of what to do.

        Args:
          settings: of the examples.
          folder: of the measured files.
          flags: Beam's own options, for its file systems.
          clip_seconds: longest time for one clip.
          work: what the codec's process does for a source.
        """
        self._settings = settings
        self._folder = folder
        self._flags = flags
        self._clip_seconds = clip_seconds
        self._work = work
        self._isolated: Isolated | None = None
        counter = beam.metrics.Metrics.counter
        self._counters = {
            name: counter("sources", name) for name in ("measured", "reused", "rejected")
        }
        self._clips_rejected = counter("clips", "rejected")

    def teardown(self) -> None:
        """Ends the codec's process."""
        if self._isolated is not None:
            self._isolated.close()
            self._isolated = None

    def process(
        self, source: JudgedSource
    ) -> Iterable[Measured | beam.pvalue.TaggedOutput[Literal["rejects"], Reject]]:
        """Yields where the measured source lies and the rejects of its clips, or its own."""
        measured = find_measured(source, self._settings, self._folder)
        outcome = "measured"
        try:
            if measured is None or not measured.is_final:
                measured = self._measure(source)
            else:
                outcome = "reused"
        # No OSError: those of files of clips are VideoErrors, all others are no source's fault.
        except (VideoError, Crashed) as error:
            self._counters["rejected"].inc()
            why = _told(error, source) if isinstance(error, Crashed) else str(error)
            reject = Reject(what=SOURCE, where=source.source_id, stage="measure", why=why)
            yield beam.pvalue.TaggedOutput(REJECTS, reject)
            return
        self._counters[outcome].inc()
        self._clips_rejected.inc(len(measured.rejects))
        for reject in measured.rejects:
            yield beam.pvalue.TaggedOutput(REJECTS, reject)
        yield measured

    def _measure(self, source: JudgedSource) -> Measured:
        """Measures in the codec's process; a clip that kills it costs that clip alone."""
        if self._isolated is None:
            self._isolated = Isolated(self._clip_seconds)
        files = dict(source.clips)
        unusable: dict[int, str] = {}
        while True:
            arguments: tuple[Any, ...] = (source, self._settings, self._folder, self._flags)
            try:
                self._isolated.call(self._work, *arguments, dict(unusable))
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


def _told(crash: Crashed, source: JudgedSource) -> str:
    if crash.step is None:
        return f"{crash.how}, outside of any clip"
    return f"{crash.how}, at {source.scale.name} {crash.step}"
