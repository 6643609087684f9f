"""Prediction errors in levels, PSNR and bits: per source, their means, and bootstrap intervals.

Each source counts once: predictions are averaged over its frames before they are compared. All
errors are absolute; lower is better. Missing levels are NaN and are left out of every mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.jnd.scale import Scale

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

Interval = tuple[float, float]
NO_INTERVAL: Interval = (float("nan"), float("nan"))


def mean_of_present(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Compute the mean of the values that are not NaN; NaN where there are none."""
    present = ~np.isnan(values)
    totals, counts = np.where(present, values, 0.0).sum(axis), present.sum(axis)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def bootstrap_interval(
    values: np.ndarray,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[Interval, ...]:
    """Compute the percentile-bootstrap interval of the mean of each column, resampling rows.

    Args:
      values: [N, L], one row per source; NaN where it has no value. NaN is never drawn.
      seed: random seed; with the same seed the intervals do not depend on the order of rows.
      num_resamples: number of resamples, each as large as the number of values.
      confidence: fraction of the resampled means inside the interval, in (0, 1).

    Returns:
      (low, high) for each of L columns; (nan, nan) if no source has a value.

    Raises:
      ValueError: no row.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"expected at least one source in [N, L], got shape {values.shape}")
    intervals: list[Interval] = []
    for column in np.asarray(values, np.float64).T:
        # Sorting each column makes the interval independent of the order of sources.
        present = np.sort(column[~np.isnan(column)])
        if len(present) == 0:
            intervals.append(NO_INTERVAL)
            continue
        rng = np.random.default_rng(seed)
        picks = rng.integers(len(present), size=(num_resamples, len(present)))
        intervals.append(_percentile_interval(present[picks].mean(axis=1), confidence))
    return tuple(intervals)


def ratio_interval(
    errors: np.ndarray,
    baseline_errors: np.ndarray,
    group_ids: Sequence[str],
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Compute the bootstrap interval of mean(errors) / mean(baseline_errors), resampling groups.

    Clips cut from one photograph have similar errors, so an interval over single clips would be
    too narrow. Each resample draws both predictors' errors, because the comparison is paired.

    Args:
      errors: [N], of a predictor.
      baseline_errors: [N], of the baseline, same sources.
      group_ids: [N], the group of each source.
      seed: random seed.
      num_resamples: number of resamples, each as large as the number of groups.
      confidence: fraction of the resampled ratios inside the interval, in (0, 1).

    Returns:
      (low, high); (nan, nan) if the baseline has no error.
    """
    groups, members = np.unique(np.asarray(group_ids), return_inverse=True)
    totals = np.stack(
        [
            np.bincount(members, np.asarray(part, np.float64), len(groups))
            for part in (errors, baseline_errors)
        ],
        axis=1,
    )
    if not totals[:, 1].any():
        return NO_INTERVAL
    picks = np.random.default_rng(seed).integers(len(groups), size=(num_resamples, len(groups)))
    drawn = totals[picks].sum(axis=1)
    # The ratio is undefined for a resample of groups in which the baseline has no error.
    drawn = drawn[drawn[:, 1] > 0]
    return _percentile_interval(drawn[:, 0] / drawn[:, 1], confidence)


def _percentile_interval(statistics: np.ndarray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def abs_psnr_errors(
    curves: Sequence[QualityCurve], predicted: np.ndarray, true: np.ndarray
) -> np.ndarray:
    """Compute the difference in PSNR between encoding at the predicted and at the true level.

    Args:
      curves: the quality curve of each of N sources.
      predicted: [N, L] levels, may be fractional; clipped to each curve's range.
      true: [N, L] levels; NaN where missing.

    Returns:
      [N, L] float64, dB, at least 0; NaN where a level is missing.
    """
    return np.stack(
        [
            np.abs(curve.psnr_at(predicted_row) - curve.psnr_at(true_row))
            for curve, predicted_row, true_row in zip(curves, predicted, true, strict=True)
        ]
    )


@dataclass(frozen=True)
class PredictorScore:
    """Mean errors of one predictor on the test sources; lower is better.

    A level that no test source has is NaN.

    Attributes:
      abs_error: mean absolute error of each level, on the dataset's scale.
      abs_error_interval: its 95% bootstrap interval over sources.
      abs_psnr_error_db: mean |PSNR at the predicted level - PSNR at the true level|, dB.
      abs_psnr_error_db_interval: its 95% bootstrap interval over sources.
      mean_abs_error: mean over all levels of all sources.
      ratio_to_constant: `mean_abs_error` over the constant predictor's; NaN if that is 0.
      ratio_to_constant_interval: its 95% bootstrap interval over groups.
    """

    abs_error: tuple[float, ...]
    abs_error_interval: tuple[Interval, ...]
    abs_psnr_error_db: tuple[float, ...]
    abs_psnr_error_db_interval: tuple[Interval, ...]
    mean_abs_error: float
    ratio_to_constant: float
    ratio_to_constant_interval: Interval


def score(
    abs_errors: np.ndarray,
    psnr_errors_db: np.ndarray,
    constant_abs_errors: np.ndarray,
    group_ids: Sequence[str],
    *,
    seed: int,
) -> PredictorScore:
    """Reduce the errors of one predictor to means and intervals.

    Args:
      abs_errors: [N, L], on the dataset's scale; NaN where a level is missing.
      psnr_errors_db: [N, L], dB; NaN where a level is missing.
      constant_abs_errors: [N, L], of the constant predictor, same sources.
      group_ids: [N], the group of each source.
      seed: random seed of the bootstrap.
    """
    mean = float(mean_of_present(abs_errors))
    constant_mean = float(mean_of_present(constant_abs_errors))
    return PredictorScore(
        abs_error=tuple(mean_of_present(abs_errors, axis=0).tolist()),
        abs_error_interval=bootstrap_interval(abs_errors, seed=seed),
        abs_psnr_error_db=tuple(mean_of_present(psnr_errors_db, axis=0).tolist()),
        abs_psnr_error_db_interval=bootstrap_interval(psnr_errors_db, seed=seed),
        mean_abs_error=mean,
        ratio_to_constant=mean / constant_mean if constant_mean > 0 else float("nan"),
        # Sums over levels, so that a source's weight is the number of its levels, as in the means.
        ratio_to_constant_interval=ratio_interval(
            np.nansum(abs_errors, axis=1) / abs_errors.shape[1],
            np.nansum(constant_abs_errors, axis=1) / abs_errors.shape[1],
            group_ids,
            seed=seed,
        ),
    )


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

    viewers: tuple[float, ...]
    model: tuple[float, ...]
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
    finest_bits = _bits_at(curves, finest[:, None])
    known = np.isfinite(finest_bits[:, 0])

    def mean_saved(levels: np.ndarray) -> tuple[float, ...]:
        saved = 1 - _bits_at(curves, levels) / finest_bits
        return tuple(mean_of_present(saved, axis=0).tolist())

    distinct = np.unique(finest[known])
    return BitsSaved(
        viewers=mean_saved(np.where(np.isnan(predicted), np.nan, true)),
        model=mean_saved(np.where(np.isnan(true), np.nan, predicted)),
        finest=int(distinct[0]) if len(distinct) == 1 else None,
        num_sources=int(known.sum()),
        num_left_out=int((~known).sum()),
    )


def _bits_at(curves: Sequence[QualityCurve], quantizers: np.ndarray) -> np.ndarray:
    return np.stack([c.bits_at(row) for c, row in zip(curves, quantizers, strict=True)])
