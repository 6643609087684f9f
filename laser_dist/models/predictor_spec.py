"""The meaning of a predictor's output, stored inside the model so that its file is enough."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laser_dist.jnd.calibration import Residuals
from laser_dist.models.domain import Domain
from laser_dist.models.variants import VARIANTS

_RESOLUTION = r"[1-9]\d{0,5}x[1-9]\d{0,5}"


@dataclass(frozen=True, kw_only=True)
class PredictorSpec:
    """The meaning of a predictor's output [B, L], or [B, L, 2] with spreads.

    Attributes:
      variant: name of the variant, such as "mj-lat".
      levels: JND levels in the L columns, ascending, such as (1, 2, 3).
      scale: "QP" or "QF".
      simulated: whether the training labels come from simulated viewers.
      spread: whether each level has two values: the level, at which 75% of the viewers are
        satisfied, and the standard deviation of the viewers' samples, taken as normal.
      residuals: errors for clips that it has not learned from, from which intervals follow. None if
        not calibrated.
      domain: what it has learned from, to tell clips that are unlike it. None if unknown.
      resolution: width and height of the clips whose levels it has learned, such as "640x360";
        levels differ between resolutions. None if unknown.

    Raises:
      ValueError: the variant is unknown, the levels are not 1, 2 or 3, ascending, there is not one
        residual for each, or the resolution is malformed.
    """

    variant: str
    levels: tuple[int, ...]
    scale: str
    simulated: bool
    spread: bool = False
    residuals: Residuals | None = None
    domain: Domain | None = None
    resolution: str | None = None

    def __post_init__(self) -> None:
        known = {variant.name for variant in VARIANTS}
        if self.variant not in known or not isinstance(self.scale, str):
            raise ValueError(f"unknown variant {self.variant!r} or scale {self.scale!r}")
        if not self.levels or tuple(self.levels) != tuple(sorted({1, 2, 3} & set(self.levels))):
            raise ValueError(f"levels must be among 1, 2, 3 and ascend, got {self.levels!r}")
        if self.resolution is not None and not re.fullmatch(_RESOLUTION, self.resolution):
            raise ValueError(f"resolution must be like 640x360, got {self.resolution!r}")
        residuals = self.residuals
        if residuals is not None and residuals.num_levels != len(self.levels):
            raise ValueError(f"residuals have {residuals.num_levels} levels, not {self.levels!r}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "PredictorSpec":
        """Return a spec from plain values, as in a file, where tuples are lists.

        Raises:
          ValueError: the values are not those of a spec.
          TypeError: a value is missing, unknown or of another type.
        """
        residuals, domain = values.get("residuals"), values.get("domain")
        parts = {
            "levels": tuple(values["levels"]),
            "residuals": None if residuals is None else Residuals.of(residuals),
            "domain": None if domain is None else Domain.of(domain),
        }
        return cls(**{**values, **parts})

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for one frame: (L,), or (L, 2) with spreads."""
        return (len(self.levels), 2) if self.spread else (len(self.levels),)
