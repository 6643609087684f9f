"""What coding at the levels saves: the reason why anybody wants to know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.quality_table import QualityCurve
from laser_dist.jnd.scale import Scale


@dataclass(frozen=True)
class BitsSaved:
    """Share of bits saved at each level, against the same source coded at its finest quantizer.

    A share is a mean over the sources whose bits are known and that have the level; NaN where there
    is none. More than at the viewers' levels is too much: it is seen.

    Attributes:
      viewers: (3,) in [0, 1], coded at the viewers' levels.
      model: (3,), the same sources coded at the levels that the network says.
      finest: the finest quantizer in the quality table; None where that differs among sources.
      num_sources: whose bits are known.
      num_left_out: whose bits are not, wholly or in part.
    """

    viewers: tuple[float, ...]
    model: tuple[float, ...]
    finest: int | None
    num_sources: int
    num_left_out: int


def bits_saved(
    curves: Sequence[QualityCurve], predicted: np.ndarray, true: np.ndarray, scale: Scale
) -> BitsSaved:
    """Compare what the network's levels save with what the viewers' do.

    Args:
      curves: the quality curve of each of N sources.
      predicted: [N, L] levels, may be fractional; NaN of a level that is not predicted, which is
        left out of the viewers' share too.
      true: [N, L]; NaN where a level is missing.
      scale: of the levels.
    """
    finest = [curve.finest(scale) for curve in curves]
    at_finest = np.array(
        [curve.bits_at(np.array(q)) for curve, q in zip(curves, finest, strict=True)]
    )
    known = np.isfinite(at_finest)

    def mean_share(levels: np.ndarray) -> tuple[float, ...]:
        bits = np.stack([curve.bits_at(row) for curve, row in zip(curves, levels, strict=True)])
        shares = mean_of_present(1 - bits / at_finest[:, None], axis=0)
        return tuple(float(share) for share in shares)

    compared = {quantizer for quantizer, is_known in zip(finest, known, strict=True) if is_known}
    return BitsSaved(
        viewers=mean_share(np.where(np.isnan(predicted), np.nan, true)),
        model=mean_share(np.where(np.isnan(true), np.nan, predicted)),
        finest=int(compared.pop()) if len(compared) == 1 else None,
        num_sources=int(known.sum()),
        num_left_out=int((~known).sum()),
    )
