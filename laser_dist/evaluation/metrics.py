"""Errors per source, their means and their bootstrap intervals.

A source counts once, however many of its frames were looked at: frame predictions are averaged
first, then compared. Every error here is absolute, so lower is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from laser_dist.evaluation.quality_table import QualityCurve

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class SourceMeans:
    """Running mean of frame predictions per source; shards and batches combine exactly.

    Attributes:
      sums: source id to the float64 sum over its frames, of any shape.
      counts: source id to its number of frames.
    """

    sums: Mapping[str, np.ndarray]
    counts: Mapping[str, int]

    @classmethod
    def empty(cls) -> SourceMeans:
        """Return the neutral element of `merge`."""
        return cls(sums={}, counts={})

    @classmethod
    def from_frames(cls, source_ids: Sequence[str], values: np.ndarray) -> SourceMeans:
        """Take one batch of frames.

        Args:
          source_ids: the source of each of B frames.
          values: [B, ...], what was predicted for each frame.

        Raises:
          ValueError: the two differ in length.
        """
        if len(source_ids) != len(values):
            raise ValueError(
                f"expected a source id per frame, got {len(source_ids)}"
                f" ids for {len(values)} frames"
            )
        sums: dict[str, np.ndarray] = {}
        counts: dict[str, int] = {}
        for source_id, value in zip(source_ids, np.asarray(values, np.float64), strict=True):
            sums[source_id] = sums[source_id] + value if source_id in sums else value
            counts[source_id] = counts.get(source_id, 0) + 1
        return cls(sums=sums, counts=counts)

    def merge(self, other: SourceMeans) -> SourceMeans:
        """Combine two sets of frames; the order does not matter, up to rounding."""
        sums = dict(self.sums)
        counts = dict(self.counts)
        for source_id, value in other.sums.items():
            sums[source_id] = sums[source_id] + value if source_id in sums else value
            counts[source_id] = counts.get(source_id, 0) + other.counts[source_id]
        return SourceMeans(sums=sums, counts=counts)

    def compute(self) -> dict[str, np.ndarray]:
        """Return the float64 mean over frames of each source."""
        return {source_id: total / self.counts[source_id] for source_id, total in self.sums.items()}


def mean_of_present(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the values that are there, along an axis or of all; NaN where there is none."""
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
    """Percentile-bootstrap interval of the mean of each column, over rows.

    Args:
      values: [N, L], one row per source; NaN where it has no value, which is never drawn.
      seed: of the resampling; the same seed and the same set of rows give the same interval,
        in whatever order the rows stand.
      num_resamples: how many times N rows are drawn with replacement.
      confidence: share of resampled means the interval holds, in (0, 1).

    Returns:
      For each of L columns its (low, high); (nan, nan) where no source has a value.

    Raises:
      ValueError: no row.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"expected at least one source in [N, L], got shape {values.shape}")
    intervals: list[Interval] = []
    for column in np.asarray(values, np.float64).T:
        # Only column means are asked for, so each column may be sorted on its own: that is what
        # makes the order of sources irrelevant.
        ordered = np.sort(column[~np.isnan(column)])
        count = len(ordered)
        if count == 0:
            intervals.append((float("nan"), float("nan")))
            continue
        picks = np.random.default_rng(seed).integers(count, size=(num_resamples, count))
        intervals += _percentile_intervals(ordered[picks].mean(axis=1)[:, None], confidence)
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
    """Bootstrap interval of mean(errors) / mean(baseline_errors), resampling whole groups.

    Clips cut from one photograph err alike, so drawing them one by one would promise more than
    the data hold. Both predictors are drawn together: the ratio is a paired comparison.

    Args:
      errors: [N], of the predictor in question.
      baseline_errors: [N], of the predictor it is compared with, same sources.
      group_ids: the group of each source.
      seed: of the resampling.
      num_resamples: how many times the groups are drawn with replacement.
      confidence: share of resampled ratios the interval holds, in (0, 1).

    Returns:
      (low, high); (nan, nan) where the baseline makes no error at all.
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
        return (float("nan"), float("nan"))
    picks = np.random.default_rng(seed).integers(len(groups), size=(num_resamples, len(groups)))
    drawn = totals[picks].sum(axis=1)
    # A draw of groups in which the baseline is perfect has no ratio; it says nothing either way.
    drawn = drawn[drawn[:, 1] > 0]
    return _percentile_intervals(drawn[:, :1] / drawn[:, 1:], confidence)[0]


def abs_psnr_errors(
    curves: Sequence[QualityCurve], predicted: np.ndarray, true: np.ndarray
) -> np.ndarray:
    """Distance in PSNR between coding at the predicted and at the true quantizer.

    Args:
      curves: the quality curve of each of N sources.
      predicted: [N, L] levels, may be fractional; clipped into each curve's range.
      true: [N, L] levels; NaN where one is missing.

    Returns:
      [N, L] float64, dB, at least 0; NaN where a level is missing.
    """
    rows = [
        np.abs(curve.psnr_at(ours) - curve.psnr_at(theirs))
        for curve, ours, theirs in zip(curves, predicted, true, strict=True)
    ]
    return np.stack(rows)


@dataclass(frozen=True)
class PredictorScore:
    """What one predictor reaches on the test sources; lower is better throughout.

    Levels that are missing count nowhere. A level that no test source has is NaN.

    Attributes:
      abs_error: mean absolute error per level, on the dataset's scale.
      abs_error_interval: its 95 % bootstrap interval over sources.
      abs_psnr_error_db: mean |PSNR at the predicted level - PSNR at the true level|, dB.
      abs_psnr_error_db_interval: its 95 % bootstrap interval over sources.
      mean_abs_error: mean over all levels of all sources: that of `abs_error`, if none is missing.
      ratio_to_constant: `mean_abs_error` over the constant predictor's; nan if that is 0.
      ratio_to_constant_interval: its 95 % interval, resampling whole groups.
    """

    abs_error: tuple[float, ...]
    abs_error_interval: tuple[Interval, ...]
    abs_psnr_error_db: tuple[float, ...]
    abs_psnr_error_db_interval: tuple[Interval, ...]
    mean_abs_error: float
    ratio_to_constant: float
    ratio_to_constant_interval: Interval


@dataclass(frozen=True, eq=False)
class SourceErrors:
    """Absolute errors of one predictor on N sources.

    Attributes:
      levels: [N, 3], on the dataset's scale; NaN where a level is missing.
      psnr_db: [N, 3], dB; NaN there too.
    """

    levels: np.ndarray
    psnr_db: np.ndarray


def score(
    errors: SourceErrors, constant: SourceErrors, group_ids: Sequence[str], *, seed: int
) -> PredictorScore:
    """Reduce one predictor's errors to means and intervals.

    Args:
      errors: of the predictor.
      constant: of the constant predictor, same sources in the same order.
      group_ids: the group of each source.
      seed: of the bootstrap.
    """
    mean = float(mean_of_present(errors.levels))
    constant_mean = float(mean_of_present(constant.levels))
    return PredictorScore(
        abs_error=_floats(mean_of_present(errors.levels, axis=0)),
        abs_error_interval=bootstrap_interval(errors.levels, seed=seed),
        abs_psnr_error_db=_floats(mean_of_present(errors.psnr_db, axis=0)),
        abs_psnr_error_db_interval=bootstrap_interval(errors.psnr_db, seed=seed),
        mean_abs_error=mean,
        ratio_to_constant=mean / constant_mean if constant_mean > 0 else float("nan"),
        ratio_to_constant_interval=ratio_interval(
            _weighed(errors.levels), _weighed(constant.levels), group_ids, seed=seed
        ),
    )


def _weighed(errors: np.ndarray) -> np.ndarray:
    """[N]: sums over the levels, in thirds: a source weighs as much as it has levels.

    So the resampled ratio is that of the means over all levels that are there.
    """
    return np.where(np.isnan(errors), 0.0, errors).sum(axis=1) / errors.shape[1]


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _percentile_intervals(means: np.ndarray, confidence: float) -> tuple[Interval, ...]:
    """Central interval of each column of [R, L] resampled statistics."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return tuple(zip(_floats(low), _floats(high), strict=True))
