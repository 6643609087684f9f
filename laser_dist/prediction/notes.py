"""Notes on clips that differ from what a model has learned from."""

from collections.abc import Iterator

from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.video.facts import ClipFacts
from laser_dist.video.scenes import SHORTEST_S

_LEARNED_BITS = 8


def notes_on(facts: ClipFacts, spec: PredictorSpec) -> tuple[str, ...]:
    """Return how a clip differs from what a model has learned from, in a few words each.

    The labels are from 8-bit SDR video of a single scene of 5 s, progressive, with square pixels.
    """
    return tuple(_notes(facts, spec))


def _notes(facts: ClipFacts, spec: PredictorSpec) -> Iterator[str]:
    if facts.hdr:
        yield f"HDR ({facts.hdr}), judged as SDR"
    if facts.bits > _LEARNED_BITS:
        yield f"{facts.bits} bits, judged at {_LEARNED_BITS}"
    if facts.interlaced:
        yield "interlaced, judged as stored"
    if facts.pixel_aspect != 1:
        ratio = facts.pixel_aspect
        yield f"pixels of {ratio.numerator}:{ratio.denominator}, judged as square"
    if facts.height > facts.width:
        yield "portrait, but learned from landscape"
    if spec.scale == "QP" and facts.duration_s == 0:
        yield "a still image, but learned from video"
    if facts.duration_s and facts.duration_s < SHORTEST_S:
        yield f"{facts.duration_s:.1f} s, but learned from clips of 5 s"
