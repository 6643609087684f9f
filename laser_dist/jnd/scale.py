"""What levels count in, and which way is worse: stated here once, and in a dataset's metadata."""

from dataclasses import dataclass

from laser_dist.errors import UserError

NUM_LEVELS = 3
"""JND levels of a source: JND1 to JND3."""

MAX_QP = 51
"""Coarsest quantizer of 8-bit H.264."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A quantizer's scale.

    Attributes:
      name: "QP" or "QF"; its lower case names the column of a quality table.
      higher_is_worse: direction.
      lowest: least level, coded with loss.
      highest: greatest level, coded with loss.
      reference: where the reference stands, which viewers compare the first level with.
    """

    name: str
    higher_is_worse: bool
    lowest: int
    highest: int
    reference: int

    def rounded(self, level: float) -> int:
        """The whole number at which a level's frames are coded: half up, within the scale."""
        return min(max(int(level + 0.5), self.lowest), self.highest)

    @property
    def direction_text(self) -> str:
        """Such as "a higher QP is coarser"."""
        return f"a {'higher' if self.higher_is_worse else 'lower'} {self.name} is coarser"


QP = Scale(name="QP", higher_is_worse=True, lowest=1, highest=MAX_QP, reference=0)
"""H.264's quantizer index; VideoSet's QP 0 is the reference."""

QF = Scale(name="QF", higher_is_worse=False, lowest=1, highest=100, reference=100)
"""JPEG's quality factor; MCL-JCI's viewers compared with the JPEG of QF 100."""

SCALES = {scale.name: scale for scale in (QP, QF)}


def scale_named(name: object, *, of: str) -> Scale:
    """The scale that a dataset or a run names.

    Args:
      name: as its metadata have it; None where they have none.
      of: who names it, for the error.

    Raises:
      UserError: there is no such scale.
    """
    scale = SCALES.get(name) if isinstance(name, str) else None
    if scale is None:
        raise UserError(
            f"Scale of {of}",
            f"one of {', '.join(SCALES)}",
            "none" if name is None else str(name),
            "Build the dataset, and train on it, with this version of the project.",
        )
    return scale
