"""Inputs that could not be used: nothing is lost silently."""

from collections.abc import Sequence
from dataclasses import dataclass

from laser_dist.errors import UserError

MAX_REJECT_RATE = 0.05

SOURCE = "source"
"""A whole source is lost."""
CLIP = "clip"
"""One coded clip is missing or damaged; its source goes on without it."""
COPY = "copy"
"""A second copy of something; the first is used."""
ARCHIVE = "archive"
"""An archive, or a name in one."""
FILE = "file"
"""Any other file."""

_COSTLY = (SOURCE, CLIP)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One input that could not be used.

    Attributes:
      what: SOURCE, CLIP, COPY, ARCHIVE or FILE.
      where: its path or id.
      stage: of the work: "find", "make" or "measure".
      why: in a sentence.
      source_id: the source concerned; empty where `where` is its id, or where it is none's.
    """

    what: str
    where: str
    stage: str
    why: str
    source_id: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.where} ({self.stage}): {self.why}"


def lost_sources(rejects: Sequence[Reject]) -> set[str]:
    """The sources that are lost as a whole."""
    return {_source_of(reject) for reject in rejects if reject.what == SOURCE}


def impaired_sources(rejects: Sequence[Reject]) -> set[str]:
    """The sources that are lost, or go on without one of their clips."""
    return {_source_of(reject) for reject in rejects if reject.what in _COSTLY}


def check_share(
    rejects: Sequence[Reject], total: int, *, max_share: float = MAX_REJECT_RATE
) -> None:
    """Stops work that would lose too much.

    Args:
      rejects: of all kinds; the sources that are lost or lose a clip count, once each.
      total: number of sources, the rejected ones included.
      max_share: largest share of the sources that may be so.

    Raises:
      UserError: it is more; the message names the first ones.
    """
    concerned = impaired_sources(rejects)
    if len(concerned) <= max_share * total:
        return
    costly = [reject for reject in rejects if reject.what in _COSTLY]
    shown = "; ".join(str(reject) for reject in costly[:3])
    raise UserError(
        f"Work on {total} sources",
        f"at most {100 * max_share:g}% of them with rejects",
        f"{len(concerned)} ({len(costly)} in all): {shown}{'; …' if len(costly) > 3 else ''}",
        "Mend or remove these inputs, then start again.",
    )


def _source_of(reject: Reject) -> str:
    return reject.source_id or reject.where
