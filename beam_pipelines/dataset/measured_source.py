"""What the codec process does for one source."""

from collections.abc import Callable, Mapping

from beam_pipelines.dataset.frame_pairs import PairSettings, measure_source
from beam_pipelines.dataset.measured_files import write_measured
from beam_pipelines.elements import LabeledSource


def measure_and_write(
    source: LabeledSource,
    settings: PairSettings,
    folder: str,
    unusable: Mapping[int, str],
    report: Callable[[int | None], None],
) -> None:
    """Measure a source and write its files below `folder`; else as `measure_source`."""
    write_measured(measure_source(source, settings, unusable, report), source, settings, folder)
