"""Prediction errors in levels, PSNR, bits and satisfied viewers: per source, and their means.

Each source counts once: predictions are averaged over its frames before they are compared. Levels
count as predicted, not rounded. Missing levels are NaN and are left out of every mean. "Above" the
viewers' level means coarser than it, in QP and in quality factors: the difference is visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from laser_dist.evaluation.intervals import Interval, mean_interval, mean_intervals, ratio_interval
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.jnd.calibration import COVERAGE
from laser_dist.jnd.scale import Scale

WITHIN = (1, 2, 3)
OVERSHOOT = (0, 2, 4)
MARGINS = tuple(range(11))

PerLevel = tuple[float, ...]


def mean_of_present(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Compute the mean of the values that are not NaN; NaN where there are none."""
    present = ~np.isnan(values)
    totals, counts = np.where(present, values, 0.0).sum(axis), present.sum(axis)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def level_means(values: np.ndarray) -> PerLevel:
    """Compute the mean over sources of each level; NaN for a level without values.

    Args:
      values: [N, L]; NaN where there is no value.
    """
    return tuple(mean_of_present(values, axis=0).tolist())


def shares(values: np.ndarray, holds: np.ndarray) -> PerLevel:
    """Compute, for each level, the share of present values for which something holds.

    Args:
      values: [N, L]; NaN where there is no value.
      holds: [N, L] bool; ignored where `values` is NaN.
    """
    return level_means(np.where(np.isnan(values), np.nan, holds))


def level_psnrs(curves: Sequence[QualityCurve], levels: np.ndarray) -> np.ndarray:
    """Return the PSNR of each source encoded at each level.

    Args:
      curves: the quality curve of each of N sources.
      levels: [N, L], may be fractional; clipped to each curve's range.

    Returns:
      [N, L] float64, dB; NaN where a level is missing.
    """
    return np.stack([c.psnr_at(row) for c, row in zip(curves, levels, strict=True)])


def level_bits(curves: Sequence[QualityCurve], levels: np.ndarray) -> np.ndarray:
    """Return the size in bits of each source encoded at each level, like `level_psnrs`.

    Returns:
      [N, L] float64; NaN where a level is missing or the source's sizes are unknown.
    """
    return np.stack([c.bits_at(row) for c, row in zip(curves, levels, strict=True)])


def level_rates(curves: Sequence[QualityCurve], levels: np.ndarray) -> np.ndarray:
    """Return the bit rate in kbit/s of each source encoded at each level, like `level_bits`."""
    return np.stack([c.kbps_at(row) for c, row in zip(curves, levels, strict=True)])


@dataclass(frozen=True)
class Difference:
    """Paired comparison of a predictor's errors with another's, over all levels of all sources.

    Attributes:
      mean: mean of (own - other) absolute error, on the dataset's scale; negative is better.
      interval: its 95% interval over groups.
    """

    mean: float
    interval: Interval


@dataclass(frozen=True)
class MarginCurve:
    """Effect of encoding at a finer quantizer than predicted.

    Attributes:
      margins: [M], number of quantizers finer than predicted.
      safe: [M, L], share of sources that are then not above the viewers' level.
      extra_bits: [M, L], mean of (bits / bits at the viewers' level - 1); NaN if unknown.
    """

    margins: tuple[int, ...]
    safe: tuple[PerLevel, ...]
    extra_bits: tuple[PerLevel, ...]


@dataclass(frozen=True)
class PredictionInterval:
    """Interval around each prediction that should contain a given share of the viewers' levels.

    Attributes:
      nominal: that share.
      half_width: [L], mean half-width, in steps of the scale; smaller is better.
      coverage: [L], share of sources whose level is inside; closest to `nominal` is best.
    """

    nominal: float
    half_width: PerLevel
    coverage: PerLevel


@dataclass(frozen=True)
class PredictorScore:
    """Errors of one predictor on the test sources.

    All intervals are 95% intervals over groups. A level that no test source has is NaN, and so is
    a correlation with fewer than three sources or without variation.

    Attributes:
      abs_error: mean absolute error of each level, on the dataset's scale; lower is better.
      abs_error_interval: its interval.
      bias: mean of (predicted - viewers') level, on the dataset's scale; 0 is best.
      bias_interval: its interval.
      rmse: root of the mean squared error, on the dataset's scale; lower is better.
      pearson: correlation of predicted and viewers' levels, in [-1, 1]; higher is better.
      spearman: the same of their ranks.
      within: distance to share of sources whose absolute error is at most this; higher is better.
      overshoot: distance to share of sources whose predicted level is above the viewers' by more
        than this; lower is better.
      abs_psnr_error_db: mean |PSNR at the predicted level - PSNR at the true level|, dB; lower is
        better.
      abs_psnr_error_db_interval: its interval.
      extra_bits: mean share of the viewers' bits that predictions below the viewers' level spend
        in addition; lower is better. Other sources count as 0.
      missing_bits: mean share of the viewers' bits that predictions above the viewers' level
        leave out; lower is better. Other sources count as 0.
      sur_at_level: mean satisfied-user ratio of the viewers at the predicted level, in [0, 1];
        NaN without samples.
      margin: effect of encoding finer than predicted.
      mean_abs_error: mean over all levels of all sources.
      ratio_to_constant: `mean_abs_error` over the constant predictor's; NaN if that is 0.
      ratio_to_constant_interval: its interval.
      differences: name of another predictor to the paired comparison with it.
      order_violations: share of sources with predicted levels out of order, such as a JND2 finer
        than JND1; lower is better. NaN if only one level is predicted.
      prediction_interval: calibrated interval around the predictions; None if there is none.
    """

    abs_error: PerLevel
    abs_error_interval: tuple[Interval, ...]
    bias: PerLevel
    bias_interval: tuple[Interval, ...]
    rmse: PerLevel
    pearson: PerLevel
    spearman: PerLevel
    within: Mapping[int, PerLevel]
    overshoot: Mapping[int, PerLevel]
    abs_psnr_error_db: PerLevel
    abs_psnr_error_db_interval: tuple[Interval, ...]
    extra_bits: PerLevel
    missing_bits: PerLevel
    sur_at_level: PerLevel
    margin: MarginCurve
    mean_abs_error: float
    ratio_to_constant: float
    ratio_to_constant_interval: Interval
    order_violations: float = float("nan")
    differences: Mapping[str, Difference] = field(default_factory=dict)
    prediction_interval: PredictionInterval | None = None


def score(
    predicted: np.ndarray,
    true: np.ndarray,
    group_ids: Sequence[str],
    *,
    scale: Scale,
    curves: Sequence[QualityCurve],
    sur_at_level: np.ndarray,
    constant: np.ndarray,
    others: Mapping[str, np.ndarray] | None = None,
    half_widths: np.ndarray | None = None,
) -> PredictorScore:
    """Reduce the predictions of one predictor to means and intervals.

    Args:
      predicted: [N, L] levels, on the dataset's scale; NaN where not predicted.
      true: [N, L], the viewers' levels; NaN where missing.
      group_ids: [N], the group of each source.
      scale: scale of the levels.
      curves: the quality curve of each of N sources.
      sur_at_level: [N, L], satisfied-user ratio of the viewers at the predicted level; NaN where
        unknown.
      constant: [N, L], the levels of the constant predictor.
      others: name to [N, L] levels of the predictors to compare with.
      half_widths: [N, L], half-width of the predictor's calibrated intervals.
    """
    errors = predicted - true
    abs_errors, above = np.abs(errors), errors * scale.sign
    constant_errors = np.where(np.isnan(errors), np.nan, np.abs(constant - true))
    psnr_errors_db = np.abs(level_psnrs(curves, predicted) - level_psnrs(curves, true))
    bits = _relative_bits(curves, predicted, true)
    mean = float(mean_of_present(abs_errors))
    constant_mean = float(mean_of_present(constant_errors))
    return PredictorScore(
        abs_error=level_means(abs_errors),
        abs_error_interval=mean_intervals(abs_errors, group_ids),
        bias=level_means(errors),
        bias_interval=mean_intervals(errors, group_ids),
        rmse=tuple(np.sqrt(level_means(errors**2)).tolist()),
        pearson=_correlations(stats.pearsonr, predicted, true),
        spearman=_correlations(stats.spearmanr, predicted, true),
        within={limit: shares(errors, abs_errors <= limit) for limit in WITHIN},
        overshoot={limit: shares(errors, above > limit) for limit in OVERSHOOT},
        abs_psnr_error_db=level_means(psnr_errors_db),
        abs_psnr_error_db_interval=mean_intervals(psnr_errors_db, group_ids),
        extra_bits=level_means(np.maximum(bits, 0)),
        missing_bits=level_means(np.maximum(-bits, 0)),
        sur_at_level=level_means(sur_at_level),
        margin=margin_curve(predicted, true, scale=scale, curves=curves),
        mean_abs_error=mean,
        ratio_to_constant=mean / constant_mean if constant_mean > 0 else float("nan"),
        # Missing levels add nothing to either sum, so a source weighs as much as it has levels.
        ratio_to_constant_interval=ratio_interval(
            np.nan_to_num(abs_errors), np.nan_to_num(constant_errors), group_ids
        ),
        order_violations=_order_violations(predicted, scale),
        differences={
            name: _difference(abs_errors - np.abs(other - true), group_ids)
            for name, other in (others or {}).items()
        },
        prediction_interval=None
        if half_widths is None
        else PredictionInterval(
            nominal=COVERAGE,
            half_width=level_means(np.where(np.isnan(errors), np.nan, half_widths)),
            coverage=shares(errors + half_widths, abs_errors <= half_widths),
        ),
    )


def margin_curve(
    predicted: np.ndarray, true: np.ndarray, *, scale: Scale, curves: Sequence[QualityCurve]
) -> MarginCurve:
    """Compute what encoding `MARGINS` quantizers finer than predicted costs and prevents.

    Args:
      predicted: [N, L] levels; NaN where not predicted.
      true: [N, L], the viewers' levels; NaN where missing.
      scale: scale of the levels.
      curves: the quality curve of each of N sources.
    """
    finer = [predicted - scale.sign * margin for margin in MARGINS]
    return MarginCurve(
        margins=MARGINS,
        safe=tuple(shares(levels - true, (levels - true) * scale.sign <= 0) for levels in finer),
        extra_bits=tuple(level_means(_relative_bits(curves, levels, true)) for levels in finer),
    )


def _relative_bits(
    curves: Sequence[QualityCurve], predicted: np.ndarray, true: np.ndarray
) -> np.ndarray:
    """Return bits at the predicted level / bits at the viewers' level - 1, [N, L]."""
    return level_bits(curves, predicted) / level_bits(curves, true) - 1


def _order_violations(predicted: np.ndarray, scale: Scale) -> float:
    """Return the share of sources of which a level is finer than the one before it."""
    levels = predicted[:, ~np.isnan(predicted).all(axis=0)]
    if levels.shape[1] < 2 or not len(levels):  # noqa: PLR2004 - no order
        return float("nan")
    return float(np.mean(np.any(np.diff(levels, axis=1) * scale.sign < 0, axis=1)))


def _difference(differences: np.ndarray, group_ids: Sequence[str]) -> Difference:
    return Difference(
        mean=float(mean_of_present(differences)), interval=mean_interval(differences, group_ids)
    )


def _correlations(statistic: Any, predicted: np.ndarray, true: np.ndarray) -> PerLevel:
    """Return a correlation of SciPy's for each level; NaN where it is not defined."""
    found: list[float] = []
    for x, y in zip(predicted.T, true.T, strict=True):
        present = ~np.isnan(x + y)
        x, y = x[present], y[present]
        is_defined = len(x) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0
        found.append(float(statistic(x, y).statistic) if is_defined else float("nan"))
    return tuple(found)


@dataclass(frozen=True)
class BitsSaved:
    """Fraction of bits saved at each level, compared with the finest encoding of the same source.

    Each value is the mean over sources that have the level and whose sizes are known; NaN if there
    are none. More than the viewers' value is not better: it means visible artifacts.

    Attributes:
      viewers: [3] in [0, 1], encoded at the viewers' levels.
      model: [3] in [0, 1], encoded at the predicted levels.
      finest: the finest measured quantizer; None if sources differ in it.
      num_sources: number of sources whose sizes are known.
      num_left_out: number of sources with an unknown size.
    """

    viewers: PerLevel
    model: PerLevel
    finest: int | None
    num_sources: int
    num_left_out: int


def bits_saved(
    curves: Sequence[QualityCurve], predicted: np.ndarray, true: np.ndarray, scale: Scale
) -> BitsSaved:
    """Compute the bits saved at the predicted and at the viewers' levels.

    Args:
      curves: the quality curve of each of N sources.
      predicted: [N, L] levels, may be fractional; NaN where not predicted. Such a level is left
        out of the viewers' mean too.
      true: [N, L] levels; NaN where missing.
      scale: scale of the levels.
    """
    finest = np.array([curve.finest(scale) for curve in curves])
    finest_bits = level_bits(curves, finest[:, None])
    known = np.isfinite(finest_bits[:, 0])

    def mean_saved(levels: np.ndarray) -> PerLevel:
        return level_means(1 - level_bits(curves, levels) / finest_bits)

    distinct = np.unique(finest[known])
    return BitsSaved(
        viewers=mean_saved(np.where(np.isnan(predicted), np.nan, true)),
        model=mean_saved(np.where(np.isnan(true), np.nan, predicted)),
        finest=int(distinct[0]) if len(distinct) == 1 else None,
        num_sources=int(known.sum()),
        num_left_out=int((~known).sum()),
    )
