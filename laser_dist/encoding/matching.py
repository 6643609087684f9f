"""The CRF of another encoder that has the quality of x264 at a predicted QP.

The levels are QPs of x264 at VideoSet's settings. For any other encoder, excerpts of the clip are
encoded at that QP, and at most two trial encodes find the CRF with the same XPSNR. They start from
what fits most clips (`codec_maps.json`, written by `benchmarks/codec_maps.py`).
"""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import io
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib import resources
from itertools import chain, islice, pairwise
from pathlib import Path
from statistics import fmean

import av
from av.video.stream import VideoStream

from laser_dist.encoding.encoders import CODECS, EncoderSettings, quiet_encoders, usual_priority
from laser_dist.video.codec import decode, encode_h264
from laser_dist.video.containers import Damage, damaged, frame_rate, open_video
from laser_dist.video.frames import (
    SCALER_FLAGS,
    Clip,
    display_matrix,
    is_sideways,
    upright_color,
    upright_planes,
)
from laser_dist.video.packets import decode_frames, decode_frames_at, scan_packets
from laser_dist.video.quality import xpsnr_db

MAX_PROBES = 2
EXCERPT_S = 1
_MOST_FRAMES = 60  # some containers state a rate of 1000
_LEAST_FRAMES = 24  # of an excerpt: at a low frame rate, a second would be little but a key frame
_NEAR_DB = 0.1  # closer than this, another trial encode is not worth its time
_LEAST_SLOPE = 0.25  # of a drop in the quality of a clip: two noisy trials that are close give none


@dataclass(frozen=True, kw_only=True)
class CodecMap:
    """What fits most clips, for one encoder.

    The drop at a CRF is how many dB the XPSNR of most clips is below that at the finest CRF that
    was measured. The steps from CRF to CRF are not equally large, above all for SVT-AV1. So quality
    is searched on the scale of drops, on which the XPSNR of a clip is nearly a straight line.

    Attributes:
      crfs: [N] CRFs, ascending.
      drops_db: [N] drop at each, in dB, ascending from 0.
      db_per_qp: drop per QP of x264.
      db_at_qp_0: drop at QP 0; below 0 if the finest CRF is coarser than that.
    """

    crfs: tuple[float, ...]
    drops_db: tuple[float, ...]
    db_per_qp: float
    db_at_qp_0: float

    def drop_at(self, crf: float) -> float:
        """Return the drop at a CRF; beyond the measured ones, the line through the nearest two."""
        return _on_line(crf, self.crfs, self.drops_db)

    def crf_with(self, drop_db: float) -> float:
        """Return the CRF with a drop."""
        return _on_line(drop_db, self.drops_db, self.crfs)

    def drop_at_qp(self, qp: float) -> float:
        """Return the drop of x264 at a QP, in most clips."""
        return self.db_at_qp_0 + self.db_per_qp * qp


def _on_line(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    at = min(max(bisect_right(xs, x), 1), len(xs) - 1)
    return ys[at - 1] + (x - xs[at - 1]) * (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])


@dataclass(frozen=True, kw_only=True)
class Match:
    """The CRF with the quality of x264 at a QP, for one clip.

    Attributes:
      crf: the CRF.
      offset_db: by how much its drop, before it is rounded to a CRF that the encoder takes, differs
        from `CodecMap.drop_at_qp`.
      target_db: XPSNR of x264 at the QP.
      reached_db: XPSNR of the last trial encode.
      num_probes: number of trial encodes, not counting x264's.
    """

    crf: float
    offset_db: float
    target_db: float
    reached_db: float
    num_probes: int


@cache
def codec_map(codec: str) -> CodecMap:
    """Return the map of an encoder, a key of `CODECS`."""
    text = (
        resources.files("laser_dist.encoding")
        .joinpath("codec_maps.json")
        .read_text(encoding="utf-8")
    )
    return CodecMap(**json.loads(text)["maps"][codec])


def excerpts_of(
    source: Path,
    scenes: Sequence[range],
    count: int,
    *,
    seconds: float = EXCERPT_S,
    size: tuple[int, int] | None = None,
) -> list[Clip]:
    """Return excerpts that are spread over a clip, upright, 8-bit 4:2:0.

    Args:
      source: path of a video.
      scenes: positions of the frames of each scene, in order.
      count: number of equal parts of the clip, each of which gives an excerpt: the middle of the
        longest scene in it. Fewer if the parts would be shorter than the excerpts.
      seconds: length of an excerpt at the nominal frame rate, but from 24 to 60 frames; less if the
        scene is shorter.
      size: (width, height) in pixels to scale to; None to keep the size.

    Raises:
      VideoError: the source is not a video, or has fewer frames.
    """
    name, damage = str(source), Damage()
    with open_video(source, name, damage) as (container, stream):
        packets = scan_packets(container, stream, name, damage)
    with open_video(source, name, damage) as (container, stream):
        rate = frame_rate(stream)
        length = min(max(_LEAST_FRAMES, round(seconds * rate)), _MOST_FRAMES)
        places = excerpt_places(scenes, count, length)
        if packets.key_times:
            times = [time for place in places for time in packets.times[place.start : place.stop]]
            found = decode_frames_at(container, stream, times, packets, damage)
        else:
            decoded = enumerate(decode_frames(container, stream, name, damage))
            found = (frame for index, frame in decoded if any(index in each for each in places))
        first = next(found, None)
        if first is None:
            raise damaged(name, "it has no frames")
        matrix = display_matrix(first)
        color = upright_color(first, matrix, codec=stream.codec_context.name, is_still=False)
        width, height = size or (first.width, first.height)
        if size and is_sideways(matrix):
            width, height = height, width
        planes = (
            upright_planes(
                frame.reformat(width, height, interpolation=SCALER_FLAGS, threads=1), color, matrix
            )
            for frame in chain([first], found)
        )
        groups = [list(islice(planes, len(place))) for place in places]
    times = [Fraction(index) / rate for index in range(length)]
    return [Clip.from_planes(each, times[: len(each)], rate) for each in groups if each]


def excerpt_places(scenes: Sequence[range], count: int, length: int) -> list[range]:
    """Return the positions of the frames of excerpts; see `excerpts_of`.

    Args:
      scenes: positions of the frames of each scene, in order; at least one frame in all.
      count: largest number of excerpts.
      length: frames of an excerpt.
    """
    start, stop = scenes[0].start, scenes[-1].stop
    count = max(1, min(count, (stop - start) // length))
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    places: list[range] = []
    for first, after in pairwise(edges):
        parts = [range(max(each.start, first), min(each.stop, after)) for each in scenes]
        longest = max(parts, key=len)
        taken = min(length, len(longest))
        begin = longest.start + (len(longest) - taken) // 2
        places.append(range(begin, begin + taken))
    return places


def matching_crf(
    excerpts: Sequence[Clip], qp: float, settings: EncoderSettings, prior: CodecMap
) -> Match:
    """Find the CRF with which an encoder has the quality of x264 at a QP.

    Args:
      excerpts: parts of the clip; the mean of their XPSNR counts.
      qp: QP of x264 at VideoSet's settings.
      settings: the other encoder.
      prior: what fits most clips.
    """

    def mean_db(encode: Callable[[Clip], Clip]) -> float:
        return fmean(xpsnr_db(each, encode(each)) for each in excerpts)

    return search(
        mean_db(lambda each: decode(encode_h264(each, qp=round(qp)), fps=each.fps)),
        lambda crf: mean_db(lambda each: encoded(each, settings, crf)),
        qp=qp,
        prior=prior,
        coarsest=CODECS[settings.codec].coarsest,
    )


def crf_at_qp(qp: float, match: Match, prior: CodecMap, coarsest: int) -> float:
    """Return the CRF that has the quality of x264 at a QP, for the clip of a match.

    Args:
      qp: QP of x264, maybe another one than that which was matched.
      match: of the clip; its offset is taken to hold at all QPs.
      prior: what fits most clips.
      coarsest: largest CRF.
    """
    return on_grid(prior.crf_with(prior.drop_at_qp(qp) + match.offset_db), coarsest)


def search(
    target_db: float,
    quality_at: Callable[[float], float],
    *,
    qp: float,
    prior: CodecMap,
    coarsest: int,
) -> Match:
    """Find the CRF of a quality with at most `MAX_PROBES` trial encodes.

    Args:
      target_db: XPSNR to reach.
      quality_at: returns the XPSNR at a CRF, rounded to `CRF_STEP`.
      qp: QP of x264 with that XPSNR.
      prior: where to start, and the scale to search on.
      coarsest: largest CRF.
    """
    tried: list[tuple[float, float]] = []
    expected = prior.drop_at_qp(qp)
    drop, slope = expected, 1.0
    crf = on_grid(prior.crf_with(drop), coarsest)
    for _ in range(MAX_PROBES):
        found = quality_at(crf)
        tried.append((crf, found))
        if len(tried) > 1 and tried[0][0] != crf:
            measured = (tried[0][1] - found) / (prior.drop_at(crf) - prior.drop_at(tried[0][0]))
            slope = measured if measured > _LEAST_SLOPE else 1.0
        # Not of the CRF that the encoder takes: it may be coarser than the coarsest.
        drop = prior.drop_at(crf) + (found - target_db) / slope
        crf = on_grid(prior.crf_with(drop), coarsest)
        if abs(target_db - found) < _NEAR_DB or crf in [each for each, _ in tried]:
            break
    return Match(
        crf=crf,
        offset_db=drop - expected,
        target_db=target_db,
        reached_db=tried[-1][1],
        num_probes=len(tried),
    )


def on_grid(crf: float, coarsest: int) -> float:
    """Return the nearest CRF that the encoders take: a multiple of a half, from 1."""
    return min(max(round(2 * crf) / 2, 1), coarsest)


def encoded(clip: Clip, settings: EncoderSettings, crf: float) -> Clip:
    """Return a clip after an encoder at a CRF."""
    quiet_encoders()
    file = io.BytesIO()
    with av.open(file, "w", "matroska") as target:
        stream = target.add_stream(CODECS[settings.codec].library, rate=clip.fps)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.options = settings.encoder_options(crf)
        for index in range(clip.num_frames):
            frame = clip.frame(index)
            frame.pts, frame.time_base = index, 1 / clip.fps
            with usual_priority():  # the first frame opens the encoder
                target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return replace(decode(file.getvalue()), color=clip.color)
