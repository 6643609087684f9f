"""Finds files below a folder, inside archives too."""

from collections.abc import Callable, Iterable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.inputs.archives import (
    archives_among,
    is_archive,
    members_of,
    needs_index,
)
from beam_pipelines.inputs.tar_index import index_tar
from beam_pipelines.parallel import InChildProcesses
from beam_pipelines.rejects import Reject
from beam_pipelines.runner import new_pipeline, num_processes, run_to_end
from laser_dist import storage
from laser_dist.storage import StoredFile


def find_files(
    manual_dir: str,
    index_folder: str,
    options: PipelineOptions,
    on_start: Callable[[str], None] = lambda job: None,
) -> tuple[list[StoredFile], list[Reject]]:
    """List all files below a folder, including members of archives.

    Args:
      manual_dir: folder of clips and labels, a path or URL.
      index_folder: folder of archive indexes; existing ones are reused.
      options: options of the Beam runner that creates missing indexes.
      on_start: called with the name of the indexing job if it runs on Dataflow.

    Returns:
      The files, members of archives last, and rejects for unusable archives and members.
    """
    return members_of_archives(storage.list_files(manual_dir), index_folder, options, on_start)


def members_of_archives(
    files: Sequence[StoredFile],
    index_folder: str,
    options: PipelineOptions,
    on_start: Callable[[str], None] = lambda job: None,
) -> tuple[list[StoredFile], list[Reject]]:
    """Replace archives by their members; see `find_files`."""
    archives, rejects = archives_among(files)
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


class _IndexTars(InChildProcesses):
    def __init__(self, index_folder: str, num_processes: int) -> None:
        super().__init__(num_processes)
        self._index_folder = index_folder

    def work(self, archive: StoredFile) -> str:
        self.in_child(index_tar, archive, self._index_folder)
        return archive.location

    def outputs(self, outcome: str) -> Iterable[str]:
        yield outcome


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
        | "IndexArchives" >> beam.ParDo(_IndexTars(index_folder, num_processes(options)))
    )
    run_to_end(pipeline, on_start)
