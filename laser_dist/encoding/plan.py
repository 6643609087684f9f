"""The quantizer of each scene, from a prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.jnd.calibration import COVERAGE
from laser_dist.jnd.normal_sur import normal_sur_curve
from laser_dist.prediction.predict import ClipPrediction

OVERSHOOT = 0.1
"""Share of clips that the default margin leaves coarser than their level."""

PUBLISHED_ERROR = 1.57
"""Margin in QP for a model without intervals: the mean error of JND1 that the paper reports."""

_SIDES = NormalDist().inv_cdf((1 + COVERAGE) / 2)  # half-width of the interval of a unit normal


@dataclass(frozen=True, kw_only=True)
class PlannedScene:
    """A scene and its quantizer.

    Attributes:
      frames: positions of its frames in the clip.
      start_s: start in seconds from the first frame of the clip.
      end_s: end in seconds.
      level: QP from the prediction, less the margin, not rounded.
      qp: QP for x264 at VideoSet's settings, with the same QP for all frames.
    """

    frames: range
    start_s: float
    end_s: float
    level: float
    qp: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a clip is to be encoded.

    Attributes:
      clip: path of the clip.
      level: "jnd1", "jnd2" or "jnd3".
      sur: targeted satisfied-user ratio.
      margin: QP that were subtracted from the prediction.
      overshoot: share of the clips that the model was calibrated with whose prediction, less the
        margin, is coarser than their level; None for a model without intervals.
      half_width: half-width in QP of the interval that contains the level of `COVERAGE` of clips.
      simulated: whether the model learned from simulated viewers.
      scenes: in order, without gaps; at least one.
    """

    clip: str
    level: str
    sur: float
    margin: float
    overshoot: float | None
    half_width: float
    simulated: bool
    scenes: tuple[PlannedScene, ...]


@dataclass(frozen=True, kw_only=True)
class SatisfiedShare:
    """Predicted share of viewers who see no difference, in [0, 1].

    Attributes:
      expected: at the predicted levels.
      low: at levels that are finer by the half-width of the interval for `COVERAGE` of clips.
      high: at levels that are coarser by it.
    """

    expected: float
    low: float
    high: float


def satisfied_share(prediction: ClipPrediction, plan: Plan) -> SatisfiedShare | None:
    """Return the share of viewers who see no difference from the level before at the planned QPs.

    Scenes count by their time.

    Args:
      prediction: predicted levels and spreads.
      plan: made from the prediction.

    Returns:
      The share; None if the model does not predict spreads.
    """
    index = _index(prediction, plan.level)
    shares: list[NDArray[np.float64]] = []
    for scene, planned in zip(prediction.scenes, plan.scenes, strict=True):
        if scene.spreads is None:
            return None
        levels = float(scene.levels[index]) + plan.half_width * np.array([0.0, -1.0, 1.0])
        grid = np.array([planned.qp])
        curve = normal_sur_curve(levels, scene.spreads[index], grid, scale=prediction.scale)
        shares.append(curve[:, 0])
    seconds = [each.end_s - each.start_s for each in plan.scenes]
    expected, low, high = np.average(shares, axis=0, weights=seconds)
    return SatisfiedShare(expected=float(expected), low=float(low), high=float(high))


def default_margin(prediction: ClipPrediction, level: str) -> float:
    """Return the margin in QP that leaves `OVERSHOOT` of clips coarser than their level.

    It follows from the errors that the model was calibrated with; a model without them has
    `PUBLISHED_ERROR`.

    Raises:
      UserError: the model does not predict the level.
    """
    index, residuals = _index(prediction, level), prediction.spec.residuals
    if residuals is None:
        return PUBLISHED_ERROR
    margin = float(residuals.margins(1 - OVERSHOOT)[index])
    if math.isnan(margin):
        return PUBLISHED_ERROR
    return max(0.0, margin)


def overshoot(prediction: ClipPrediction, level: str, margin: float) -> float | None:
    """Return `Plan.overshoot` of a margin in QP.

    Raises:
      UserError: the model does not predict the level.
    """
    index, residuals = _index(prediction, level), prediction.spec.residuals
    if residuals is None:
        return None
    share = float(residuals.shares_above(margin)[index])
    return None if math.isnan(share) else share


def half_width(prediction: ClipPrediction, level: str) -> float:
    """Return the half-width in QP of the interval that contains the level of `COVERAGE` of clips.

    It is the model's. For a model without intervals, it follows from `PUBLISHED_ERROR` for normal
    errors, whose mean size is sqrt(2 / pi) of their standard deviation.

    Raises:
      UserError: the model does not predict the level.
    """
    index, residuals = _index(prediction, level), prediction.spec.residuals
    if residuals is not None:
        width = float(residuals.half_widths()[index])
        if not math.isnan(width):
            return width
    return PUBLISHED_ERROR * math.sqrt(math.pi / 2) * _SIDES


def plan_of(
    prediction: ClipPrediction,
    level: str = "jnd1",
    *,
    margin: float | None = None,
    constant: bool = False,
) -> Plan:
    """Plan the quantizer of each scene.

    Args:
      prediction: the predicted levels, in QP.
      level: "jnd1", "jnd2" or "jnd3".
      margin: QP to subtract from the predicted levels; None for `default_margin`.
      constant: give all scenes the QP of the strictest one.

    Raises:
      UserError: the model does not predict the level, predicts quality factors, or the clip is a
        still image.
    """
    index = _index(prediction, level)
    scale = prediction.scale
    if scale.name != "QP":
        raise UserError(
            f"The model predicts levels in {scale.name}, which are for JPEG.",
            hint="Name a model that was trained on video.",
        )
    margin = default_margin(prediction, level) if margin is None else margin
    strictest = float(prediction.levels_at_sur[index])
    scenes: list[PlannedScene] = []
    # A scene of which no frame decodes has no prediction: it is planned as the one before.
    nexts = [*prediction.scenes[1:], None]
    for each, after in zip(prediction.scenes, nexts, strict=True):
        if each.end_s is None:
            raise UserError(f"{prediction.clip} is a still image.", hint="Name a video.")
        planned = (strictest if constant else float(each.levels_at_sur[index])) - margin
        scenes.append(
            PlannedScene(
                frames=range(
                    each.frames.start if scenes else 0,
                    after.frames.start if after else each.frames.stop,
                ),
                start_s=each.start_s if scenes else 0.0,
                end_s=after.start_s if after else each.end_s,
                level=planned,
                qp=scale.quantizer_at(planned),
            )
        )
    return Plan(
        clip=prediction.clip,
        level=level,
        sur=prediction.sur,
        margin=margin,
        overshoot=overshoot(prediction, level, margin),
        half_width=half_width(prediction, level),
        simulated=prediction.spec.simulated,
        scenes=tuple(scenes),
    )


def _index(prediction: ClipPrediction, level: str) -> int:
    names = [*prediction.quantizers]
    if level not in names:
        raise UserError(f"The model does not predict {level}.", hint=f"Name {' or '.join(names)}.")
    return names.index(level)
