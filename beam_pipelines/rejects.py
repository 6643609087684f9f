"""Inputs that could not be used: nothing is lost silently."""

from collections.abc import Sequence
from dataclasses import dataclass

from laser_dist.errors import UserError

MAX_REJECTED_SHARE = 0.05
SOURCE = "source"


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One input that could not be used.

    Attributes:
      what: "source" for a whole source; else what part or file: "clip", "file".
      where: its path or id.
      stage: of the work: "find", "make" or "measure".
      reason: why, in a sentence.
    """

    what: str
    where: str
    stage: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} {self.where} ({self.stage}): {self.reason}"


def lost_sources(rejects: Sequence[Reject]) -> list[Reject]:
    """The rejects that cost a whole source; a second copy of a clip, for one, costs none."""
    return [reject for reject in rejects if reject.what == SOURCE]


def check_share(
    rejects: Sequence[Reject], total: int, *, max_share: float = MAX_REJECTED_SHARE
) -> None:
    """Stops work that would lose too much.

    Args:
      rejects: of all kinds; those of whole sources count.
      total: number of sources, the rejected ones included.
      max_share: largest share of the sources that may be lost.

    Raises:
      UserError: more than `max_share` were rejected; the message names the first ones.
    """
    lost = lost_sources(rejects)
    if len(lost) <= max_share * total:
        return
    shown = "; ".join(str(reject) for reject in lost[:3])
    raise UserError(
        f"Work on {total} sources",
        f"at most {max_share:.0%} rejected",
        f"{len(lost)} rejected: {shown}{'; …' if len(lost) > 3 else ''}",
        "Mend or remove these inputs, then start again.",
    )
