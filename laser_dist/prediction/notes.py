"""Notes on clips that differ from what a model has learned from."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from laser_dist.models.domain import NEAR, Domain
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.video.containers import Damage
from laser_dist.video.facts import ClipFacts
from laser_dist.video.scenes import SHORTEST_S

_LEARNED_BITS = 8
_NEAR_SIZE = 1.2
"""Ratio above which a resolution counts as another; those of VideoSet differ by 1.33 or more."""


def notes_on(
    facts: ClipFacts,
    spec: PredictorSpec,
    *,
    frame_size: tuple[int, int] = (1, 1),
    damage: Damage | None = None,
    features: NDArray[np.floating] | None = None,
) -> tuple[str, ...]:
    """Return how a clip differs from what a model has learned from, in a few words each.

    The labels are from 8-bit SDR video of a single scene of 5 s, progressive, with square pixels.

    Args:
      facts: how the clip is coded.
      spec: what the model has learned from.
      frame_size: width and height of the model's frames in pixels.
      damage: damage that was concealed or left out; None for none.
      features: [F], means of the `frame_features` of the sampled frames.
    """
    return (
        *_notes_on_damage(damage or Damage()),
        *_notes(facts, spec, *frame_size),
        *_notes_on_content(features, spec.domain),
    )


def _notes_on_content(
    features: NDArray[np.floating] | None, domain: Domain | None
) -> Iterator[str]:
    if features is None or domain is None:
        return
    distance = domain.distance(features)
    if distance > domain.limit:
        yield (
            f"unlike the clips it learned from: distance {distance:.1f}, {NEAR:.0%} of them are"
            f" below {domain.limit:.1f}"
        )


def _notes_on_damage(damage: Damage) -> Iterator[str]:
    if damage.is_truncated:
        yield "truncated, judged by what is there"
    if damage.num_concealed:
        yield f"{_frames(damage.num_concealed)} concealed"
    if damage.num_lost:
        yield f"{_frames(damage.num_lost)} left out"


def _is_near(facts: ClipFacts, resolution: str) -> bool:
    """Return whether a clip has a resolution, even if it is portrait, or of another shape."""
    sizes = sorted((facts.width, facts.height)), sorted(map(int, resolution.split("x")))
    ratio = max(side / other for side, other in zip(*sizes, strict=True))
    return 1 / _NEAR_SIZE <= ratio <= _NEAR_SIZE


def _frames(count: int) -> str:
    return f"{count} damaged frame{'s' if count > 1 else ''}"


def _notes(facts: ClipFacts, spec: PredictorSpec, width: int, height: int) -> Iterator[str]:
    if facts.hdr:
        yield f"HDR ({facts.hdr}), tone-mapped to SDR"
    if facts.bits > _LEARNED_BITS:
        yield f"{facts.bits} bits, judged at {_LEARNED_BITS}"
    if facts.interlaced:
        yield "interlaced, deinterlaced"
    if facts.pixel_aspect != 1:
        ratio = facts.pixel_aspect
        yield f"pixels of {ratio.numerator}:{ratio.denominator}, judged as square"
    if spec.resolution:
        if not _is_near(facts, spec.resolution):
            yield f"{facts.width}x{facts.height} pixels, but learned from {spec.resolution}"
    elif facts.width < width or facts.height < height:
        yield f"{facts.width}x{facts.height} pixels, scaled up to {width}x{height}"
    if facts.height > facts.width:
        yield "portrait, but learned from landscape"
    if spec.scale == "QP" and facts.duration_s == 0:
        yield "a still image, but learned from video"
    if facts.duration_s and facts.duration_s < SHORTEST_S:
        yield f"{facts.duration_s:.1f} s, but learned from clips of 5 s"
