"""The quantizer scales, QP and quality factor: range and direction, defined here once."""

import math
from dataclasses import dataclass

from laser_dist.errors import UserError

NUM_LEVELS = 3
"""JND levels of a source: JND1 to JND3."""

LEVEL_SUR = 0.75
"""Satisfied-user ratio at a JND level, which defines the level."""

MAX_QP = 51
"""Coarsest quantizer of 8-bit H.264."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A quantizer scale.

    Attributes:
      name: "QP" or "QF"; in lower case, the name of the column in a quality table.
      higher_is_worse: direction.
      lowest: smallest level, encoded with loss.
      highest: largest level, encoded with loss.
      reference: level of the reference, which viewers compare JND1 with.
    """

    name: str
    higher_is_worse: bool
    lowest: int
    highest: int
    reference: int

    def quantizer_at(self, level: float) -> int:
        """Return the quantizer to encode a level with, clipped to the scale.

        A level between two quantizers is rounded to the finer one, down in QP and up in quality
        factors: at the coarser one, more viewers than the level promises see a difference.
        """
        rounded = math.floor(level) if self.higher_is_worse else math.ceil(level)
        return min(max(rounded, self.lowest), self.highest)

    @property
    def sign(self) -> int:
        """Factor that makes higher worse: 1, or -1 if higher is better."""
        return 1 if self.higher_is_worse else -1

    @property
    def direction_text(self) -> str:
        """Direction in words, such as "a higher QP is coarser"."""
        return f"a {'higher' if self.higher_is_worse else 'lower'} {self.name} is coarser"


QP = Scale(name="QP", higher_is_worse=True, lowest=1, highest=MAX_QP, reference=0)
"""H.264's quantizer index; VideoSet's reference is QP 0."""

QF = Scale(name="QF", higher_is_worse=False, lowest=1, highest=100, reference=100)
"""JPEG's quality factor; MCL-JCI's viewers compared with the JPEG of QF 100."""

SCALES = {scale.name: scale for scale in (QP, QF)}


def scale_named(name: object, *, of: str) -> Scale:
    """Return the scale named in the metadata of a dataset, run or model.

    Args:
      name: the name in the metadata; None if it has none.
      of: owner of the metadata, for the error, such as "run runs/first".

    Raises:
      UserError: the scale is missing or unknown.
    """
    scale = SCALES.get(name) if isinstance(name, str) else None
    if scale is None:
        problem = "is missing" if name is None else f'is "{name}"'
        raise UserError(
            f"The scale of {of} {problem}; it must be {' or '.join(SCALES)}.",
            hint="Build the dataset and train on it with this version of laser-jnd.",
        )
    return scale
