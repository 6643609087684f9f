"""What the codec's process does for one source. It loads no Beam unless a file is behind a URL."""

from collections.abc import Callable, Iterable, Mapping

from beam_pipelines import storage
from beam_pipelines.dataset.frame_pairs import PairSettings, measure_source
from beam_pipelines.dataset.measured_files import write_measured
from beam_pipelines.elements import LabeledSource


def measure_and_write(
    source: LabeledSource,
    settings: PairSettings,
    folder: str,
    flags: tuple[str, ...],
    unusable: Mapping[int, str],
    report: Callable[[int | None], None],
) -> None:
    """`measure_source`, and its files; runs in the codec's process.

    Args:
      source: as for `measure_source`.
      settings: of the examples.
      folder: of the files.
      flags: Beam's own options, for its file systems.
      unusable: as for `measure_source`.
      report: as for `measure_source`.
    """
    if any(storage.is_remote(place) for place in (folder, *_places(source))):
        storage.use_options(flags)
    measured = measure_source(source, settings, unusable, report)
    try:
        write_measured(measured, source, settings, folder)
    except OSError as error:  # with the place, for whoever reads it
        raise RuntimeError(f"Writing below {folder}: {error}") from error


def _places(source: LabeledSource) -> Iterable[str]:
    files = [file for _, file in source.clips]
    return (file.place for file in [*files, *filter(None, [source.original])])
