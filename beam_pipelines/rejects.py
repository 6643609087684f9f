"""Inputs that could not be used: nothing is lost silently."""

from collections.abc import Sequence
from dataclasses import dataclass

from laser_dist.errors import UserError

MAX_REJECTED_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One input that could not be used.

    Attributes:
      what: a source, clip, label row or file.
      where: its path or id.
      stage: of the work: find, decode, encode, label.
      reason: why, in a sentence.
    """

    what: str
    where: str
    stage: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} {self.where} ({self.stage}): {self.reason}"


def check_share(
    rejects: Sequence[Reject], total: int, *, max_share: float = MAX_REJECTED_SHARE
) -> None:
    """Stops a build that would lose too much.

    Args:
      rejects: of the build.
      total: number of inputs, the rejected ones included.
      max_share: largest share that may be lost.

    Raises:
      UserError: more than `max_share` were rejected; the message names the first ones.
    """
    if len(rejects) <= max_share * total:
        return
    shown = "; ".join(str(reject) for reject in rejects[:3])
    raise UserError(
        f"Build of {total} sources",
        f"at most {max_share:.0%} rejected",
        f"{len(rejects)} rejected: {shown}{'; …' if len(rejects) > 3 else ''}",
        "Mend or remove these inputs, then build again.",
    )
