"""A miniature VideoSet: photographs and videos become judged clips in VideoSet's own layout.

    footage ─ draw takes ─▶ film ─▶ encode at each QP ─▶ judge ─▶ clips, label tables, marker

Everything is real but the viewers, who are simulated: see `laser_dist.jnd.observers`. From the
folder on, the same builder reads it that reads VideoSet.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.folders import complete_folder
from beam_pipelines.sources import Footage, load_photo
from laser_dist.jnd.labels import (
    LevelLabel,
    SourceLabels,
    format_videoset_labels,
    label_file_name,
)
from laser_dist.jnd.layout import FRAME_RATES, MARKER_NAME, ClipName, source_id
from laser_dist.jnd.observers import NUM_LEVELS, Judgement, Panel, judge_clip
from laser_dist.video.camera import Shot, draw_shot, film
from laser_dist.video.codec import VIDEOSET, decode, encode_h264
from laser_dist.video.excerpt import Excerpt, draw_excerpt, read_excerpt
from laser_dist.video.frames import Clip
from laser_dist.video.visibility import MaskingModel, visibility, visibility_threshold

RATE = 30
ALL_QPS = tuple(range(1, 52))


@dataclass(frozen=True, kw_only=True)
class MiniatureSettings:
    """What the miniature is made of.

    Attributes:
      num_sources: clips, spread evenly over the footage.
      width: of the clips, in pixels; even.
      height: of the clips, in pixels; even.
      num_frames: of each clip.
      qps: coded QPs above the reference's 0, ascending.
      seed: of takes, viewers and their trials.
      panel: the simulated viewers.
      masking: what hides errors from them.
    """

    num_sources: int = 300
    width: int = 320
    height: int = 176
    num_frames: int = 6
    qps: tuple[int, ...] = ALL_QPS
    seed: int = 0
    panel: Panel = field(default_factory=Panel)
    masking: MaskingModel = field(default_factory=MaskingModel)

    @property
    def resolution(self) -> str:
        """Such as `320x176`."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Take:
    """One clip to make: which footage, and which shot of it or excerpt from it."""

    source_index: int
    footage: Footage
    cut: Shot | Excerpt


def draw_takes(footage: Sequence[Footage], settings: MiniatureSettings) -> tuple[Take, ...]:
    """Draws every take; take i does not depend on how many there are."""
    return tuple(
        _draw_take(index, footage[(index - 1) % len(footage)], settings)
        for index in range(1, settings.num_sources + 1)
    )


def _draw_take(index: int, footage: Footage, settings: MiniatureSettings) -> Take:
    rng = np.random.default_rng([settings.seed, 2, index])
    aspect = settings.width / settings.height
    if footage.is_video:
        return Take(index, footage, draw_excerpt(rng, footage.path, aspect, settings.num_frames))
    height, width = load_photo(footage.path).shape[:2]
    return Take(index, footage, draw_shot(rng, width, height, aspect))


def make_clip(take: Take, settings: MiniatureSettings) -> Clip:
    """Films or cuts one clip."""
    size = {"width": settings.width, "height": settings.height}
    if isinstance(take.cut, Excerpt):
        frames = read_excerpt(take.footage.path, take.cut, num_frames=settings.num_frames, **size)
    else:
        photo = load_photo(take.footage.path)
        frames = film(photo, take.cut, num_frames=settings.num_frames, **size)
    return Clip.from_rgb(frames, FRAME_RATES[RATE])


@dataclass
class CodedClip:
    """A clip and its coded versions, made when first asked for."""

    reference: Clip
    masking: MaskingModel
    _streams: dict[int, bytes] = field(default_factory=dict)
    _decoded: dict[int, Clip] = field(default_factory=dict)

    def stream(self, qp: int) -> bytes:
        """Annex-B stream at a QP, with VideoSet's settings."""
        if qp not in self._streams:
            self._streams[qp] = encode_h264(self.reference, qp=qp, settings=VIDEOSET)
        return self._streams[qp]

    def decoded(self, qp: int) -> Clip:
        """Frames at a QP; at 0 the reference, as QP 0 is lossless."""
        if qp == 0:
            return self.reference
        if qp not in self._decoded:
            self._decoded[qp] = decode(self.stream(qp), fps=self.reference.fps)
        return self._decoded[qp]

    def visibilities(self, qps: Sequence[int]) -> np.ndarray:
        """[Q] how far the errors at each QP stand out from the reference."""
        threshold = visibility_threshold(self.reference, self.masking)
        return np.array(
            [visibility(self.reference, self.decoded(qp), threshold, self.masking) for qp in qps]
        )


def judge(
    coded: CodedClip, source_index: int, settings: MiniatureSettings
) -> tuple[Judgement, ...]:
    """Lets the simulated viewers find the three levels of one clip."""
    panel = dataclasses.replace(settings.panel, seed=settings.seed)
    visibilities = coded.visibilities(settings.qps)
    return judge_clip(np.array(settings.qps), visibilities, panel, clip_seed=source_index)


def label_row(source_index: int, judgements: Sequence[Judgement]) -> SourceLabels:
    """A clip's judgement as VideoSet's label tables hold it."""
    levels = tuple(
        LevelLabel(
            jnd=float(judgement.jnd_qp),
            mean=float(np.mean(judgement.samples)),
            anchor=float(judgement.anchor_qp),
            samples=judgement.samples,
            normality=_looks_normal(judgement.samples),
            standard_deviation=float(np.std(judgement.samples, ddof=1)),
        )
        for judgement in judgements
    )
    return SourceLabels(source_id(source_index), (levels[0], levels[1], levels[2]))


def _looks_normal(samples: Sequence[int]) -> int:
    """VideoSet's normality flag: 1 where kurtosis lies between 2 and 4 (its section 4)."""
    from scipy.stats import kurtosis

    if len(set(samples)) == 1:
        return 0
    return int(2 <= kurtosis(samples, fisher=False) <= 4)


def produce(take: Take, settings: MiniatureSettings, folder: Path) -> SourceLabels:
    """Makes, codes and judges one clip, and writes its files below `folder`."""
    coded = CodedClip(make_clip(take, settings), settings.masking)
    judgements = judge(coded, take.source_index, settings)
    for qp in (*settings.qps, 0):  # the reference last: it says that the others are there
        name = ClipName(
            source_index=take.source_index,
            width=settings.width,
            height=settings.height,
            rate=RATE,
            qp=qp,
        )
        path = folder / name.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coded.stream(qp))
    return label_row(take.source_index, judgements)


class WriteTables(beam.DoFn):
    """Writes the label tables of all clips at once, then the marker."""

    def __init__(self, folder: Path, resolution: str, marker: dict[str, object]) -> None:
        self._folder = folder
        self._resolution = resolution
        self._marker = marker

    def process(self, rows: Sequence[SourceLabels]) -> Iterable[int]:
        """Yields the number of rows written."""
        ordered = sorted(rows, key=lambda row: row.source_id)
        for level_index in range(NUM_LEVELS):
            name = label_file_name(self._resolution, level_index)
            (self._folder / name).write_text(format_videoset_labels(ordered, level_index))
        (self._folder / MARKER_NAME).write_text(json.dumps(self._marker, indent=2) + "\n")
        yield len(ordered)


def make_miniature(
    footage: Sequence[Footage],
    settings: MiniatureSettings,
    folder: Path,
    options: PipelineOptions,
) -> None:
    """Makes the whole miniature; `folder` is complete or absent.

    Args:
      footage: photographs and videos, at least one.
      settings: of the miniature.
      folder: to make; its parent must be writable.
      options: of the Beam runner.
    """
    takes = draw_takes(footage, settings)
    marker = marker_of(takes, settings)
    with complete_folder(folder) as unfinished:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Takes" >> beam.Create(takes)
                | "Spread" >> beam.Reshuffle()
                | "FilmEncodeJudge" >> beam.Map(produce, settings, unfinished)
                | "Gather" >> beam.combiners.ToList()
                | "WriteTables" >> beam.ParDo(WriteTables(unfinished, settings.resolution, marker))
            )


def marker_of(takes: Sequence[Take], settings: MiniatureSettings) -> dict[str, object]:
    """What `SIMULATED.json` says: that viewers are simulated, how, and what belongs together."""
    return {
        "simulated": True,
        "simulated_viewers": (
            f"{settings.panel.num_viewers} simulated viewers: log-normal thresholds on a masked "
            "luma error, VideoSet's protocol with group anchors; no person has judged these clips"
        ),
        "fingerprint": fingerprint(takes, settings),
        "settings": dataclasses.asdict(settings),
        "groups": {source_id(take.source_index): take.footage.group_id for take in takes},
    }


def fingerprint(takes: Sequence[Take], settings: MiniatureSettings) -> str:
    """Hash of all that decides the miniature's content, 16 hex digits."""
    parts = [
        dataclasses.asdict(settings),
        [
            (take.source_index, take.footage.group_id, dataclasses.asdict(take.cut))
            for take in takes
        ],
        dataclasses.asdict(VIDEOSET),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
