"""Rejects: inputs that could not be used. They are counted, listed in a table and limited."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from laser_dist import storage
from laser_dist.errors import UserError

MAX_REJECT_RATE = 0.05
REJECTS_FILE = "rejects.parquet"

SOURCE = "source"
"""A source is lost."""
CLIP = "clip"
"""An encoded clip is missing or damaged; its source is used without it."""
COPY = "copy"
"""A second copy of a file; the first is used."""
ARCHIVE = "archive"
"""An archive, or a member of one."""
FILE = "file"
"""Any other file."""

_COSTLY = (SOURCE, CLIP)
_TOTAL_KEY = b"num_sources"
_RATE_KEY = b"max_reject_rate"


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One input that could not be used.

    Attributes:
      what: SOURCE, CLIP, COPY, ARCHIVE or FILE.
      where: path or id of the input.
      stage: "find", "make" or "measure".
      why: the reason.
      source_id: affected source; empty if `where` is its id, or if no source is affected.
    """

    what: str
    where: str
    stage: str
    why: str
    source_id: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.where} ({self.stage}): {self.why}"


SCHEMA = pa.schema([pa.field(f.name, pa.string(), nullable=False) for f in fields(Reject)])


def lost_sources(rejects: Sequence[Reject]) -> set[str]:
    """Return the sources that are lost."""
    return {_source_of(reject) for reject in rejects if reject.what == SOURCE}


def impaired_sources(rejects: Sequence[Reject]) -> set[str]:
    """Return the sources that are lost or lack one of their clips."""
    return {_source_of(reject) for reject in rejects if reject.what in _COSTLY}


@contextmanager
def naming_archives(rejects: Sequence[Reject]) -> Iterator[None]:
    """Make an error about missing files name the first archive that was not used."""
    try:
        yield
    except UserError as error:
        for reject in rejects:
            if reject.what == ARCHIVE:
                raise UserError(
                    f"{error.message} {reject.where} was not used: {reject.why}.", hint=error.hint
                ) from error
        raise


def check_reject_rate(
    rejects: Sequence[Reject],
    total: int,
    *,
    max_rate: float = MAX_REJECT_RATE,
    table: str | Path | None = None,
) -> None:
    """Check that not too many sources are lost or lack a clip.

    Args:
      rejects: rejects of all kinds; each affected source counts once.
      total: number of sources, including lost ones.
      max_rate: largest accepted share of affected sources, in [0, 1].
      table: where to write a table of the rejects before failing; None for nowhere.

    Raises:
      UserError: the share is exceeded; the message names the first rejects.
    """
    affected = impaired_sources(rejects)
    if len(affected) <= max_rate * total:
        return
    if table is not None:
        write_rejects(rejects, total, table, max_rate=max_rate)
    costly = [reject for reject in rejects if reject.what in _COSTLY]
    shown = "; ".join(str(reject) for reject in costly[:3])
    more = f"; and {len(costly) - 3} more" if len(costly) > 3 else ""
    raise UserError(
        f"{len(affected)} of {total} sources have rejected inputs, more than the accepted "
        f"{100 * max_rate:g}%: {shown}{more}.",
        hint="Fix or remove these inputs, then run the command again."
        + (f" All rejects found so far are listed in {table}." if table is not None else ""),
    )


@dataclass(frozen=True, kw_only=True)
class RejectLimit:
    """When a pipeline has too many rejects.

    Beam passes a worker's exception on as text, and a failed build removes its output. So before it
    fails, a worker writes a table of the rejects.

    Attributes:
      refusal: path or URL of that table.
      found: rejects known before the pipeline started.
      total: number of sources, including lost ones.
      max_rate: largest accepted share of affected sources, in [0, 1].
    """

    refusal: str | Path
    found: Sequence[Reject]
    total: int
    max_rate: float = MAX_REJECT_RATE

    def all_rejects(self, rejects: Iterable[Reject]) -> list[Reject]:
        """Return these rejects and those found before, in the order of a table."""
        return sorted((*self.found, *rejects), key=lambda reject: (reject.where, reject.stage))

    def check(self, rejects: Iterable[Reject]) -> None:
        """Write the table and raise a `UserError` if these rejects are too many."""
        found = self.all_rejects(rejects)
        check_reject_rate(found, self.total, max_rate=self.max_rate, table=self.refusal)


def write_rejects(
    rejects: Sequence[Reject],
    total: int,
    location: str | Path,
    *,
    max_rate: float = MAX_REJECT_RATE,
) -> None:
    """Write a table of rejects, complete or absent.

    Args:
      rejects: rows of the table.
      total: number of sources, stored in the table's metadata.
      location: path or URL of the table.
      max_rate: largest accepted share of affected sources, stored in the table's metadata.
    """
    rows = [{name: utf8_text(text) for name, text in asdict(reject).items()} for reject in rejects]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    metadata = {_TOTAL_KEY: str(total).encode(), _RATE_KEY: repr(max_rate).encode()}
    file = BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    storage.write_bytes(location, file.getvalue())


def read_rejects(location: str | Path) -> tuple[tuple[Reject, ...], int]:
    """Return the rejects in a table, and the number of sources."""
    table = _read_table(location)
    rejects = tuple(Reject(**row) for row in table.to_pylist())
    return rejects, int(table.schema.metadata[_TOTAL_KEY])


def check_refusal(location: str | Path) -> None:
    """Raise the `UserError` of `check_reject_rate` again, from the table that it wrote."""
    rejects, total = read_rejects(location)
    max_rate = float(_read_table(location).schema.metadata[_RATE_KEY])
    check_reject_rate(rejects, total, max_rate=max_rate, table=location)


def _source_of(reject: Reject) -> str:
    return reject.source_id or reject.where


def utf8_text(text: str) -> str:
    """Escape bytes of a file name that are not UTF-8, which a table cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_table(location: str | Path) -> pa.Table:
    return pq.read_table(BytesIO(storage.read_bytes(location)))
