"""Writes the rejects of a build as a table, and stops a build that loses too much."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.rejects import Reject, check_share

SCHEMA = pa.schema([pa.field(f.name, pa.string(), nullable=False) for f in fields(Reject)])


class WriteRejects(beam.DoFn):
    """Writes all rejects at once; fails the pipeline when they are too many."""

    def __init__(self, path: Path, found: Sequence[Reject], total: int) -> None:
        """Takes note of what was rejected before the pipeline began.

        Args:
          path: of the Parquet file.
          found: rejects known by name alone.
          total: number of sources, rejected ones included.
        """
        self._path = path
        self._found = tuple(found)
        self._total = total

    def process(self, rejects: Sequence[Reject]) -> Iterable[int]:
        """Yields the number of rejects."""
        ordered = sorted((*self._found, *rejects), key=lambda reject: (reject.where, reject.stage))
        table = pa.Table.from_pylist([asdict(reject) for reject in ordered], schema=SCHEMA)
        pq.write_table(table, self._path)
        check_share(ordered, self._total)
        yield len(ordered)
