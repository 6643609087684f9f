"""Simulated viewers: they replace people if there is no labeled video.

They see one number per encoded clip, its visibility: how far its errors exceed the threshold of the
median viewer, which is 1 (`simulation.visibility`). Viewers differ (viewer spread), and one viewer
varies between trials (trial spread). Both are log-normal, so the fraction of viewers who notice an
encoded clip against the reference is a cumulative normal of log visibility, the usual psychometric
function.

The protocol is VideoSet's (Wang et al. 2017, section 3): all viewers compare with one anchor. The
first anchor is the reference; the next is the clip at the level just found, for all viewers.
Against an encoded anchor a viewer notices an increment of visibility. Its threshold follows
contrast discrimination (Legge and Foley 1980): below the detection threshold for a faint pedestal,
then growing as a power of the pedestal. Comparing two encoded clips is harder, so trials vary more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laser_dist.jnd.scale import MAX_QP, NUM_LEVELS
from laser_dist.jnd.sur import level_at_sur

# Lower bound of visibilities, because 0 has no logarithm.
FAINTEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The viewers of one experiment.

    Attributes:
      num_viewers: viewers of each clip, at least 2.
      viewer_spread: standard deviation of log threshold between viewers.
      trial_spread: standard deviation of log threshold between trials of one viewer, if the
        anchor is the reference.
      increment: increment of visibility that the median viewer notices against an encoded anchor
        of visibility 1, above 0.
      increment_spread: replaces `trial_spread` if the anchor is an encoded clip.
      growth: exponent of the anchor's visibility in that increment.
      seed: random seed for thresholds and trials, at least 0.

    Raises:
      ValueError: a value is outside its range.
    """

    num_viewers: int = 30
    viewer_spread: float = 0.20
    trial_spread: float = 0.15
    increment: float = 0.43
    increment_spread: float = 0.50
    growth: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_viewers < 2:
            raise ValueError(f"num_viewers must be at least 2, got {self.num_viewers}")
        if self.increment <= 0:
            raise ValueError(f"increment must be above 0, got {self.increment}")
        for name in ("viewer_spread", "trial_spread", "increment_spread", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def log_thresholds(self) -> NDArray[np.float64]:
        """Return [S] the log of each viewer's mean threshold; about 0 for the median viewer."""
        rng = np.random.default_rng([self.seed, 0])
        return rng.normal(0.0, self.viewer_spread, self.num_viewers)


@dataclass(frozen=True)
class Judgment:
    """Result of a panel for one clip at one level.

    Attributes:
      jnd_qp: the level, as `level_at_sur` defines it.
      anchor_qp: QP of the anchor (0 = the reference).
      samples: [S] first QP that each viewer noticed.
    """

    jnd_qp: int
    anchor_qp: int
    samples: tuple[int, ...]


def judge_clip(
    qps: NDArray[np.int64],
    visibilities: NDArray[np.float64],
    panel: Panel,
    *,
    clip_seed: int,
) -> tuple[Judgment, ...]:
    """Simulate the three levels that a panel finds for a clip.

    Args:
      qps: [Q] int, measured QPs, strictly ascending, above 0.
      visibilities: [Q] float, 0 or more, of the clip at each QP against the reference.
      panel: the viewers.
      clip_seed: random seed for the trials, so the labels of a clip are independent of others.

    Returns:
      One judgment per level, JND1 first. Levels strictly ascend until they reach QP 51, which is
      also the sample of a viewer who notices nothing.

    Raises:
      ValueError: as `visibility_curve`.
    """
    curve = visibility_curve(qps, visibilities)
    rng = np.random.default_rng([panel.seed, 1, clip_seed])
    usual = panel.log_thresholds()
    judgments: list[Judgment] = []
    anchor_qp = 0
    for _ in range(NUM_LEVELS):
        spread = panel.trial_spread if anchor_qp == 0 else panel.increment_spread
        thresholds = np.exp(usual + rng.normal(0.0, spread, panel.num_viewers))
        needed = thresholds * needed_visibility(curve[anchor_qp], panel)
        samples = first_noticed(curve, curve[anchor_qp] + needed, anchor_qp=anchor_qp)
        level = level_at_sur(samples)
        judgments.append(Judgment(level, anchor_qp, tuple(int(qp) for qp in samples)))
        anchor_qp = level
    return tuple(judgments)


def visibility_curve(
    qps: NDArray[np.int64], visibilities: NDArray[np.float64], *, coarsest: int = MAX_QP
) -> NDArray[np.float64]:
    """Interpolate the visibility at every integer QP, or along another axis from fine to coarse.

    Log visibility is linear in QP between measured QPs, because the quantizer step grows
    exponentially with QP. Outside it is extrapolated from the two nearest QPs. (A constant there
    would give samples of QP 1 whenever the smallest measured QP is visible.) The curve does not
    fall: viewers who have noticed a difference keep noticing it.

    Args:
      qps: [Q] int, two or more, strictly ascending, in 1..`coarsest`.
      visibilities: [Q] float, 0 or more; clipped below at `FAINTEST`.
      coarsest: end of the axis, 51 for QP.

    Returns:
      [coarsest + 1] float, at QP 0..`coarsest`, non-decreasing; 0 at QP 0, the reference.

    Raises:
      ValueError: there are fewer than two QPs, they are not strictly ascending in
        1..`coarsest`, or the number of visibilities differs.
    """
    if len(qps) < 2 or np.any(np.diff(qps) <= 0) or qps[0] < 1 or qps[-1] > coarsest:
        raise ValueError(
            f"quantizers must be two or more, ascending within 1..{coarsest}, got {qps}"
        )
    if len(visibilities) != len(qps):
        raise ValueError(f"{len(qps)} quantizers but {len(visibilities)} visibilities")
    rising = np.maximum.accumulate(np.log(np.maximum(visibilities, FAINTEST)))
    grid = np.arange(coarsest + 1)
    logs = np.interp(grid, qps, rising)
    slopes = np.diff(rising) / np.diff(qps)
    logs += slopes[0] * np.minimum(grid - qps[0], 0) + slopes[-1] * np.maximum(grid - qps[-1], 0)
    curve = np.exp(logs)
    curve[0] = 0.0
    return curve


def first_noticed(
    curve: NDArray[np.float64], thresholds: NDArray[np.float64], *, anchor_qp: int
) -> NDArray[np.int64]:
    """Return the first QP above the anchor at which the curve reaches each threshold.

    Args:
      curve: [52] visibility at QP 0..51, non-decreasing.
      thresholds: [S] visibility that each viewer notices.
      anchor_qp: QP of the anchor.

    Returns:
      [S] int; the QP after the anchor if the threshold is lower, because no lower QP is shown; 51
      for a viewer who notices nothing, and for all if the anchor is 51.
    """
    lowest = min(anchor_qp + 1, MAX_QP)
    return np.clip(np.searchsorted(curve, thresholds), lowest, MAX_QP)


def needed_visibility(anchor: float, panel: Panel) -> float:
    """Return the increment over an anchor that the median viewer notices; 1 over the reference."""
    return 1.0 if anchor == 0 else panel.increment * anchor**panel.growth
