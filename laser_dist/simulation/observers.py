"""Simulated viewers: they stand in for people where no judged video is at hand.

What they see is one number per coded clip, its visibility: how far its errors stand out from the
reference (`simulation.visibility`), 1 being the median viewer's threshold. People differ (the
panel's spread) and nobody answers alike twice (the trial's spread); both are log-normal, so the
share of viewers who notice a coded clip beside the reference is a cumulative normal of log
visibility, the usual psychometric function.

The protocol is VideoSet's (Wang et al. 2017, section 3): all viewers judge against one anchor. The
first anchor is the reference; the next is the clip coded at the level just found, for everyone.
Against a coded anchor a viewer notices an increment of visibility. Its threshold follows contrast
discrimination (Legge and Foley 1980): below the threshold of detection for a faint pedestal, then
growing as a power of the pedestal. To say which of two coded clips is the worse is the harder
question, and answers to it scatter more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laser_dist.jnd.scale import MAX_QP, NUM_LEVELS
from laser_dist.jnd.sur import level_at_sur

# Visibilities below this are taken as this: an error that no viewer sees has no logarithm at 0.
FAINTEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The viewers of one experiment.

    Attributes:
      num_viewers: how many judge each clip, at least 2.
      viewer_spread: standard deviation of log threshold between viewers.
      trial_spread: standard deviation of log threshold between one viewer's answers, where the
        anchor is the reference.
      increment: increment of visibility that the median viewer notices against a coded anchor of
        visibility 1, above 0.
      increment_spread: as `trial_spread`, in its place where the anchor is a coded clip.
      growth: exponent of the anchor's visibility in that increment.
      seed: of the viewers' thresholds and of their trials, at least 0.

    Raises:
      ValueError: a value outside its range.
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
            raise ValueError(f"num_viewers: expected 2 or more, got {self.num_viewers}")
        if self.increment <= 0:
            raise ValueError(f"increment: expected above 0, got {self.increment}")
        for name in ("viewer_spread", "trial_spread", "increment_spread", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")

    def log_thresholds(self) -> NDArray[np.float64]:
        """[S] natural log of each viewer's usual threshold, the median viewer's being about 0."""
        rng = np.random.default_rng([self.seed, 0])
        return rng.normal(0.0, self.viewer_spread, self.num_viewers)


@dataclass(frozen=True)
class Judgment:
    """What the panel said of one clip at one level.

    Attributes:
      jnd_qp: the level: the QP at which 75 % of the viewers are still satisfied, just.
      anchor_qp: what they compared with (0 = the reference).
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
    """Lets the panel find the three levels of a clip.

    Args:
      qps: [Q] int, measured QPs, strictly ascending, above 0.
      visibilities: [Q] float, 0 or more, of the clip coded at each QP against the reference.
      panel: the viewers.
      clip_seed: of the trials, so that a clip's judgment does not depend on the others'.

    Returns:
      One judgment per level, JND1 first; levels strictly ascend until they reach QP 51, which is
      also the answer of a viewer who notices nothing up to there.

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
        answers = np.exp(usual + rng.normal(0.0, spread, panel.num_viewers))
        needed = answers * needed_visibility(curve[anchor_qp], panel)
        samples = first_noticed(curve, curve[anchor_qp] + needed, anchor_qp=anchor_qp)
        level = level_at_sur(samples)
        judgments.append(Judgment(level, anchor_qp, tuple(int(qp) for qp in samples)))
        anchor_qp = level
    return tuple(judgments)


def visibility_curve(
    qps: NDArray[np.int64], visibilities: NDArray[np.float64], *, coarsest: int = MAX_QP
) -> NDArray[np.float64]:
    """Visibility at every whole QP, or at every step of another axis from fine to coarse.

    Between measured QPs the log of visibility is taken as linear in QP, as the quantizer's step
    grows exponentially with QP; outside them it goes on as between the two nearest. (A constant
    there would have viewers answer QP 1 wherever the least measured QP is visible.) The curve does
    not fall: viewers who have noticed a difference go on seeing it.

    Args:
      qps: [Q] int, two or more, strictly ascending, from 1 to `coarsest`.
      visibilities: [Q] float, 0 or more; below `FAINTEST` counts as that.
      coarsest: end of the axis, 51 for QP.

    Returns:
      [coarsest + 1] float, at QP 0..`coarsest`, non-decreasing; 0 at QP 0, the reference.

    Raises:
      ValueError: fewer than two QPs, not strictly ascending or outside 1..`coarsest`, or not one
        visibility for each.
    """
    if len(qps) < 2 or np.any(np.diff(qps) <= 0) or qps[0] < 1 or qps[-1] > coarsest:
        raise ValueError(
            f"quantizers: expected two or more, ascending within 1..{coarsest}, got {qps}"
        )
    if len(visibilities) != len(qps):
        raise ValueError(f"expected {len(qps)} visibilities, got {len(visibilities)}")
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
    """First whole QP above the anchor at which the curve reaches each threshold.

    Args:
      curve: [52] visibility at QP 0..51, non-decreasing.
      thresholds: [S] visibility that each viewer notices.
      anchor_qp: the QP compared with.

    Returns:
      [S] int; the QP after the anchor for a viewer whom less would do, as no lower QP is shown;
      51 for one who notices nothing up to there, and for all where the anchor is 51 itself.
    """
    lowest = min(anchor_qp + 1, MAX_QP)
    return np.clip(np.searchsorted(curve, thresholds), lowest, MAX_QP)


def needed_visibility(anchor: float, panel: Panel) -> float:
    """Increment over the anchor's visibility that the median viewer notices; 1 over 0."""
    return 1.0 if anchor == 0 else panel.increment * anchor**panel.growth
