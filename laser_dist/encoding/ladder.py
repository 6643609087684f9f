"""Which renditions of a clip are worth their storage: the rungs of a ladder.

Within a height, viewers decide: a rung stays if enough of the predicted viewers see a difference
from the rung above. No viewer has compared heights, so that between heights bit rates decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

import numpy as np

from laser_dist.encoding.plan import Plan
from laser_dist.jnd.normal_sur import normal_sur_curve
from laser_dist.jnd.scale import LEVEL_SUR
from laser_dist.prediction.predict import ClipPrediction

VIDEOSET_HEIGHTS = (1080, 720, 540, 360)
"""Heights in pixels for which VideoSet has levels, each with the frames of that height."""

JND_SHARE = 1 - LEVEL_SUR
"""Share of viewers who see a difference of one JND: those whom a level does not satisfy."""


class Reason(StrEnum):
    """Why a rung is kept or dropped."""

    FIRST_OF_ITS_HEIGHT = "first-of-its-height"
    A_JND_OR_MORE = "a-jnd-or-more"
    OTHER_QUANTIZERS = "other-quantizers"
    NEAREST_TO_LIMITS = "nearest-to-limits"
    FILLS_MIN_RUNGS = "fills-min-rungs"
    LESS_THAN_A_JND = "less-than-a-jnd"
    NOT_FEWER_BITS = "not-fewer-bits"
    ABOVE_MAX_BITRATE = "above-max-bitrate"
    BELOW_MIN_BITRATE = "below-min-bitrate"
    ABOVE_MAX_RUNGS = "above-max-rungs"


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A rendition that could become a rung.

    Attributes:
      width: columns of a frame in pixels.
      height: rows of a frame in pixels.
      plan: QP of each scene.
      prediction: from which the plan was made.
    """

    width: int
    height: int
    plan: Plan
    prediction: ClipPrediction

    @property
    def name(self) -> str:
        """Height and level, such as "720p-jnd1", distinct in a ladder."""
        return f"{self.height}p-{self.plan.level}"

    @property
    def qps(self) -> tuple[int, ...]:
        """QP of each scene."""
        return tuple(scene.qp for scene in self.plan.scenes)

    @property
    def mean_qp(self) -> float:
        """Mean QP over the time of the clip."""
        return float(np.average(self.qps, weights=_seconds(self.plan)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A candidate, and whether it stays.

    Attributes:
      candidate: the rendition.
      share: share of viewers, in [0, 1], who see a difference from the rung above, of the same
        height; None without one, or if the model does not predict how much viewers differ.
      bitrate_kbps: bit rate of the video; None if it was dropped before it was encoded.
      dropped: why it is dropped; None if it stays.
      kept: why it stays; None if it is dropped.
    """

    candidate: Candidate
    share: float | None
    bitrate_kbps: float | None
    dropped: Reason | None
    kept: Reason | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the rungs of a ladder may be.

    Attributes:
      min_kbps: lowest bit rate of the video.
      max_kbps: highest bit rate of the video.
      min_rungs: fewest rungs, as far as there are candidates that differ.
      max_rungs: most rungs; None for no limit.
    """

    min_kbps: float = 0.0
    max_kbps: float = math.inf
    min_rungs: int = 1
    max_rungs: int | None = None


def select_rungs(
    candidates: Iterable[Candidate],
    bitrate_of: Callable[[Candidate], float],
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
) -> tuple[Rung, ...]:
    """Decide which candidates become rungs.

    From the greatest height to the smallest, and from the finest quantizers to the coarsest, a
    candidate is dropped if

    1. fewer than `JND_SHARE` of the viewers see a difference from the last rung of this height that
       stayed; or, for a model without spreads, if its quantizers are the same,
    2. its bit rate is not below that of the last rung that stayed at a greater height: it would
       take as many bits for fewer pixels,
    3. its bit rate is outside the limits.

    If none stays, the one whose bit rate is nearest to the limits does. If fewer than
    `limits.min_rungs` stay, so do those that only the first rule drops and whose bit rates are
    between those of their neighbors, in the order of the share of viewers who see a difference. Of
    more rungs than `limits.max_rungs`, those whose bit rates are nearest to the one above are
    dropped, but neither the first nor, of two or more, the last.

    Args:
      candidates: of one clip, with the same scenes.
      bitrate_of: returns the bit rate of a candidate in kbit/s; called only if it is needed, as
        this takes an encode.
      limits: what the rungs may be.

    Returns:
      A rung per candidate, in the order above.
    """
    rungs: list[Rung] = []
    for candidate in sorted(candidates, key=lambda each: (-each.height, each.mean_qp)):
        kept = [rung for rung in rungs if rung.dropped is None]
        of_height = [each for each in kept if each.candidate.height == candidate.height]
        greater = [each for each in kept if each.candidate.height > candidate.height]
        share, dropped, bitrate = None, None, None
        if of_height:
            above = of_height[-1].candidate
            share = share_who_see(candidate.prediction, above.qps, candidate.qps)
            if candidate.qps == above.qps or (share is not None and share < JND_SHARE):
                dropped = Reason.LESS_THAN_A_JND
        if dropped is None:
            bitrate = bitrate_of(candidate)
            if greater and bitrate >= _kbps(greater[-1]):
                dropped = Reason.NOT_FEWER_BITS
            elif bitrate > limits.max_kbps:
                dropped = Reason.ABOVE_MAX_BITRATE
            elif bitrate < limits.min_kbps:
                dropped = Reason.BELOW_MIN_BITRATE
        rungs.append(Rung(candidate=candidate, share=share, bitrate_kbps=bitrate, dropped=dropped))
    if all(rung.dropped for rung in rungs):
        encoded = [index for index, rung in enumerate(rungs) if rung.bitrate_kbps is not None]
        nearest = min(encoded, key=lambda index: _distance(_kbps(rungs[index]), limits))
        rungs[nearest] = replace(rungs[nearest], dropped=None, kept=Reason.NEAREST_TO_LIMITS)
    _restore(rungs, bitrate_of, limits)
    return tuple(_with_shares(_at_most(rungs, limits.max_rungs)))


def share_who_see(
    prediction: ClipPrediction, fine: Sequence[int], coarse: Sequence[int]
) -> float | None:
    """Return the share of viewers who see a difference between two encodes of a clip.

    A viewer sees one in a scene if one of the predicted JND points is between its two quantizers.
    The points of the levels are normal and taken as independent. Scenes count by their time.

    Args:
      prediction: predicted levels and spreads of the S scenes.
      fine: [S] quantizers of one encode.
      coarse: [S] quantizers of the other one.

    Returns:
      The share in [0, 1]; None if the model does not predict spreads.
    """
    shares: list[float] = []
    seconds: list[float] = []
    for scene, *pair in zip(prediction.scenes, fine, coarse, strict=True):
        if scene.spreads is None:
            return None
        sur = normal_sur_curve(scene.levels, scene.spreads, np.array(pair), scale=prediction.scale)
        shares.append(float(1 - np.prod(1 - np.abs(sur[:, 0] - sur[:, 1]))))
        seconds.append((scene.end_s or 1) - scene.start_s)
    return float(np.average(shares, weights=seconds))


def default_heights(height: int) -> tuple[int, ...]:
    """Return the heights of VideoSet that a clip has enough rows for, else its own, even."""
    return tuple(each for each in VIDEOSET_HEIGHTS if each <= height) or (height // 2 * 2,)


def size_at(width: int, height: int, rows: int) -> tuple[int, int]:
    """Return the size (width, height) of a clip of `width` x `height` scaled to some rows.

    The width has the nearest even number of pixels.
    """
    return max(2, 2 * round(width * rows / height / 2)), rows


def segment_starts(times: Sequence[Fraction], seconds: float, fps: Fraction) -> tuple[int, ...]:
    """Return the positions of the frames that segments start at.

    A segment ends at the first frame that is at least its length away, half a frame less: a length
    that is no number of frames is rounded.

    Args:
      times: presentation time of each frame in seconds, ascending; at least one.
      seconds: length of a segment.
      fps: nominal frame rate.
    """
    length = shortest_segment(seconds, fps)
    starts = [0]
    for index, time in enumerate(times):
        if time - times[starts[-1]] >= length:
            starts.append(index)
    return tuple(starts)


def shortest_segment(seconds: float, fps: Fraction) -> Fraction:
    """Return the time in seconds after which the next key frame starts a segment."""
    return max(Fraction(seconds) - 1 / (2 * fps), 1 / (2 * fps))


def split_at(
    values: Sequence[tuple[range, float]], starts: Iterable[int]
) -> list[tuple[range, float]]:
    """Return the quantizers of scenes for the parts that segments divide them into.

    Args:
      values: frames and quantizer of each scene, in order, without gaps.
      starts: positions of frames, ascending.
    """
    cuts = set(starts)
    found: list[tuple[range, float]] = []
    for frames, value in values:
        edges = [frames.start, *sorted(cuts & set(frames[1:])), frames.stop]
        found += [(range(a, b), value) for a, b in zip(edges, edges[1:], strict=False)]
    return found


def _restore(rungs: list[Rung], bitrate_of: Callable[[Candidate], float], limits: Limits) -> None:
    """Restore rungs that differ from those that stay by less than a JND, until there are enough."""
    close = [index for index, rung in enumerate(rungs) if rung.dropped == Reason.LESS_THAN_A_JND]
    for index in sorted(close, key=lambda index: rungs[index].share or 0.0, reverse=True):
        kept = [at for at, rung in enumerate(rungs) if rung.dropped is None]
        if len(kept) >= limits.min_rungs:
            return
        candidate = rungs[index].candidate
        if any(_is_same(candidate, rungs[at].candidate) for at in kept):
            continue
        bitrate = bitrate_of(candidate)
        before = min((_kbps(rungs[at]) for at in kept if at < index), default=math.inf)
        after = max((_kbps(rungs[at]) for at in kept if at > index), default=0.0)
        stays = before > bitrate > after and _distance(bitrate, limits) == 0
        rungs[index] = replace(rungs[index], bitrate_kbps=bitrate)
        if stays:
            rungs[index] = replace(rungs[index], dropped=None, kept=Reason.FILLS_MIN_RUNGS)


def _is_same(candidate: Candidate, other: Candidate) -> bool:
    return (candidate.height, candidate.qps) == (other.height, other.qps)


def _with_shares(rungs: Iterable[Rung]) -> Iterator[Rung]:
    """Yield the rungs with what follows from the kept rung above: share of viewers, and reason."""
    above: Candidate | None = None
    for rung in rungs:
        candidate, share, kept = rung.candidate, None, Reason.FIRST_OF_ITS_HEIGHT
        if above is not None and above.height == candidate.height:
            share = share_who_see(candidate.prediction, above.qps, candidate.qps)
            if share is None:
                kept = Reason.OTHER_QUANTIZERS
            else:
                kept = Reason.A_JND_OR_MORE if share >= JND_SHARE else Reason.FILLS_MIN_RUNGS
        if rung.dropped is None:
            above = candidate
            yield replace(rung, share=share, kept=rung.kept or kept)
        else:
            yield replace(rung, share=share, kept=None)


def _at_most(rungs: list[Rung], most: int | None) -> tuple[Rung, ...]:
    """Drop rungs that are near to the one above in bit rate, until no more than `most` stay."""
    kept = [index for index, rung in enumerate(rungs) if rung.dropped is None]
    while most is not None and len(kept) > most:
        inner = range(1, len(kept) - 1) if len(kept) > 2 and most > 1 else range(1, len(kept))
        nearest = max(inner, key=lambda at: _kbps(rungs[kept[at]]) / _kbps(rungs[kept[at - 1]]))
        index = kept.pop(nearest)
        rungs[index] = replace(rungs[index], dropped=Reason.ABOVE_MAX_RUNGS)
    return tuple(rungs)


def _kbps(rung: Rung) -> float:
    assert rung.bitrate_kbps is not None, rung.candidate.name
    return rung.bitrate_kbps


def _distance(kbps: float, limits: Limits) -> float:
    return max(kbps - limits.max_kbps, limits.min_kbps - kbps, 0.0)


def _seconds(plan: Plan) -> list[float]:
    return [scene.end_s - scene.start_s for scene in plan.scenes]
