"""The rejects of a pipeline as a table, and the end of one that loses too much.

Beam hands a worker's exception on as text, and what a failed build has written is removed with it.
So a worker that finds too many rejects leaves the table in a second place as well, the refusal,
before it fails; `clear_failures` around the pipeline reads it there and raises the error anew.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines.rejects import MAX_REJECT_RATE, Reject, check_share
from laser_dist import storage
from laser_dist.errors import UserError

REJECTS = "rejects"
"""Tag of the output that rejects go to."""

REJECTS_FILE = "rejects.parquet"
SCHEMA = pa.schema([pa.field(f.name, pa.string(), nullable=False) for f in fields(Reject)])

_TOTAL_KEY = b"num_sources"
_SHARE_KEY = b"max_share"
# What a user can mend about the place written to, as Python prints it: "[Errno 28] No space ...".
_PLACE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def write_rejects(
    rejects: Sequence[Reject],
    total: int,
    place: str | Path,
    *,
    max_share: float = MAX_REJECT_RATE,
) -> None:
    """Writes a table of rejects, complete or absent.

    Args:
      rejects: its rows.
      total: number of sources they are of.
      place: of the table.
      max_share: of the sources that may be rejected; kept in the table with `total`.
    """
    rows = [{name: _printable(text) for name, text in asdict(reject).items()} for reject in rejects]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    metadata = {_TOTAL_KEY: str(total).encode(), _SHARE_KEY: repr(max_share).encode()}
    file = BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    storage.write_bytes(place, file.getvalue())


def read_rejects(place: str | Path) -> tuple[tuple[Reject, ...], int]:
    """The rejects of a table, and the number of sources they are of."""
    table = _read_table(place)
    rejects = tuple(Reject(**row) for row in table.to_pylist())
    return rejects, int(table.schema.metadata[_TOTAL_KEY])


def refuse_too_many(
    rejects: Sequence[Reject],
    total: int,
    refusal: str | Path,
    *,
    max_share: float = MAX_REJECT_RATE,
) -> None:
    """Stops work that would lose too much, and leaves the table of it.

    Args:
      rejects: all that are known.
      total: number of sources, rejected ones included.
      refusal: of the table, written only where the work is stopped.
      max_share: of the sources that may be rejected.

    Raises:
      UserError: as `check_share`.
    """
    try:
        check_share(rejects, total, max_share=max_share)
    except UserError:
        write_rejects(rejects, total, refusal, max_share=max_share)
        raise


class WriteRejects(beam.DoFn):
    """Writes all rejects at once; fails the pipeline when they are too many."""

    def __init__(
        self,
        place: str | Path,
        refusal: str | Path,
        found: Sequence[Reject],
        total: int,
        max_share: float = MAX_REJECT_RATE,
    ) -> None:
        """Takes note of what was rejected before the pipeline began.

        Args:
          place: of the table.
          refusal: of the second one, written only where the pipeline is failed.
          found: rejects known by name alone.
          total: number of sources, rejected ones included.
          max_share: of the sources that may be rejected.
        """
        self._place = place
        self._refusal = refusal
        self._found = tuple(found)
        self._total = total
        self._max_share = max_share

    def process(self, rejects: Sequence[Reject]) -> Iterable[int]:
        """Yields the number of rejects; counts them, each kind by itself."""
        for reject in (*self._found, *rejects):
            beam.metrics.Metrics.counter("rejects", reject.what).inc()
        ordered = sorted((*self._found, *rejects), key=lambda reject: (reject.where, reject.stage))
        write_rejects(ordered, self._total, self._place, max_share=self._max_share)
        refuse_too_many(ordered, self._total, self._refusal, max_share=self._max_share)
        yield len(ordered)


@contextmanager
def clear_failures(refusal: str | Path, output: str | Path) -> Iterator[None]:
    """Turns a pipeline's failure that the user can mend into a `UserError`.

    Args:
      refusal: as given to `WriteRejects`; removed on entry and left in place after a refusal, for
        the user to read.
      output: the folder written to, for messages.

    Raises:
      UserError: too much was rejected, or `output` cannot be written (full, read-only).
    """
    try:
        storage.remove(refusal)
    except OSError as error:
        raise _place_error(output, error.strerror or str(error)) from error
    try:
        yield
    except Exception as error:
        # The refusal first: without worker processes Beam raises the UserError itself, but adds
        # to its text.
        if storage.exists(refusal):
            _raise_refusal(refusal, error)
        if isinstance(error, UserError):
            raise
        for number in map(int, _ERRNO.findall(str(error))):
            if number in _PLACE_ERRORS:
                raise _place_error(output, os.strerror(number)) from error
        raise


def _raise_refusal(refusal: str | Path, error: Exception) -> None:
    rejects, total = read_rejects(refusal)
    max_share = float(_read_table(refusal).schema.metadata[_SHARE_KEY])
    try:
        check_share(rejects, total, max_share=max_share)
    except UserError as refused:
        raise UserError(
            refused.what,
            refused.expected,
            refused.got,
            f"All of them: {refusal}. {refused.next_step}",
        ) from error


def _printable(text: str) -> str:
    """Bytes of a file's name that are no UTF-8 as their numbers: a table holds text alone."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_table(place: str | Path) -> pa.Table:
    return pq.read_table(BytesIO(storage.read_bytes(place)))


def _place_error(output: str | Path, got: str) -> UserError:
    return UserError(
        f"Output folder {output}", "a place that can be written", got, "Free it or name another."
    )
