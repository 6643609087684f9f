"""Looks into archives: those that are streams are read through once, in a pipeline of their own."""

from collections.abc import Callable, Iterable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import storage
from beam_pipelines.inputs.archives import (
    archives_among,
    index_tar,
    is_archive,
    members_of,
    needs_index,
    unreadable,
)
from beam_pipelines.rejects import Reject
from beam_pipelines.runner import new_pipeline, run_to_end
from beam_pipelines.storage import StoredFile


def find_files(
    manual_dir: str,
    archives: str,
    options: PipelineOptions,
    on_start: Callable[[str], None] = lambda job: None,
) -> tuple[list[StoredFile], list[Reject]]:
    """All files below a folder, members of archives among them, and what cannot be used of these.

    Args:
      manual_dir: of clips and labels; path or URL.
      archives: where archives' indexes are kept; those that are there are not made again.
      options: of the Beam runner that makes them.
      on_start: called with the name of the job that makes them, where it runs elsewhere.
    """
    return members_of_archives(storage.list_files(manual_dir), archives, options, on_start)


def members_of_archives(
    files: Sequence[StoredFile],
    index_folder: str,
    options: PipelineOptions,
    on_start: Callable[[str], None] = lambda job: None,
) -> tuple[list[StoredFile], list[Reject]]:
    """Puts the members of archives in the place of the archives.

    Args:
      files: as they lie there.
      index_folder: where indexes of `.tar.gz` are kept; those that are there are not made again.
      options: of the Beam runner that makes the others, an archive each.
      on_start: called with the job's name, where it runs on other machines.

    Returns:
      All files, those in archives last, and the archives and members that cannot be used.
    """
    archives, rejects = archives_among(files)
    unopened = unreadable(archives)
    archives = [each for each in archives if each.place not in {lost.where for lost in unopened}]
    rejects += unopened
    _index(
        [archive for archive in archives if needs_index(archive, index_folder)],
        index_folder,
        options,
        on_start,
    )
    found = [file for file in files if not is_archive(file)]
    for archive in archives:
        members, faults = members_of(archive, index_folder)
        found += members
        rejects += faults
    return found, rejects


class _IndexTars(beam.DoFn):
    def __init__(self, index_folder: str) -> None:
        self._index_folder = index_folder

    def process(self, archive: StoredFile) -> Iterable[str]:
        index_tar(archive, self._index_folder)
        yield archive.place


def _index(
    tars: list[StoredFile],
    index_folder: str,
    options: PipelineOptions,
    on_start: Callable[[str], None],
) -> None:
    if not tars:
        return
    storage.check_writable(index_folder)
    pipeline = new_pipeline(options)
    _ = (
        pipeline
        | "Archives" >> beam.Create(tars)
        | "SpreadArchives" >> beam.Reshuffle()
        | "IndexArchives" >> beam.ParDo(_IndexTars(index_folder))
    )
    run_to_end(pipeline, on_start)
