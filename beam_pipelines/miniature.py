"""A miniature VideoSet: photographs and videos become judged clips in VideoSet's own layout.

    footage ─ draw takes ─▶ film ─▶ encode at each QP ─▶ judge ─▶ clips, label tables, marker

Everything is real but the viewers, who are simulated: see `laser_dist.jnd.observers`. From the
folder on, the same builder reads it that reads VideoSet.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.folders import complete_folder
from beam_pipelines.rejects import SOURCE, Reject
from beam_pipelines.rejects_table import (
    REJECTS,
    REJECTS_FILE,
    WriteRejects,
    clear_failures,
)
from beam_pipelines.sources import Footage, load_photo, photo_size
from laser_dist.errors import UserError
from laser_dist.jnd.labels import (
    MAX_QP,
    LevelLabel,
    SourceLabels,
    format_videoset_labels,
    label_file_name,
)
from laser_dist.jnd.layout import FRAME_RATES, MARKER_NAME, ClipName, source_id
from laser_dist.jnd.observers import NUM_LEVELS, Judgement, Panel, judge_clip
from laser_dist.video.camera import Shot, draw_shot, film
from laser_dist.video.codec import MIN_SIZE, VIDEOSET, VideoError, decode, encode_h264
from laser_dist.video.excerpt import Excerpt, draw_excerpt, read_excerpt
from laser_dist.video.frames import Clip
from laser_dist.video.visibility import MaskingModel, visibility, visibility_threshold

RATE = 30
ALL_QPS = tuple(range(1, MAX_QP + 1))
MAX_SOURCES = 999  # VideoSet's names have three digits


@dataclass(frozen=True, kw_only=True)
class MiniatureSettings:
    """What the miniature is made of.

    Attributes:
      num_sources: clips, spread evenly over the footage, 1 to 999.
      width: of the clips, in pixels; even, at least 16.
      height: of the clips, in pixels; even, at least 16.
      num_frames: of each clip, at least 1.
      qps: coded QPs above the reference's 0, two or more, strictly ascending, up to 51.
      seed: of takes, viewers and their trials, at least 0; stands in place of the panel's own.
      panel: the simulated viewers.
      masking: what hides errors from them.

    Raises:
      UserError: a value outside its range.
    """

    num_sources: int = 600
    width: int = 256
    height: int = 144
    num_frames: int = 4
    qps: tuple[int, ...] = ALL_QPS
    seed: int = 0
    panel: Panel = field(default_factory=Panel)
    masking: MaskingModel = field(default_factory=MaskingModel)

    def __post_init__(self) -> None:
        size = f"even sides of {MIN_SIZE} pixels or more"
        _expect(1 <= self.num_sources <= MAX_SOURCES, "num_sources", "1 to 999", self.num_sources)
        _expect(min(self.width, self.height) >= MIN_SIZE, "clips", size, self.resolution)
        _expect(self.width % 2 == self.height % 2 == 0, "clips", size, self.resolution)
        _expect(self.num_frames >= 1, "num_frames", "1 or more", self.num_frames)
        _expect(self.seed >= 0, "seed", "0 or more", self.seed)
        ascends = tuple(sorted(set(self.qps))) == self.qps and len(self.qps) >= 2
        in_range = ascends and set(self.qps) <= set(ALL_QPS)
        _expect(in_range, "qps", f"two or more, ascending within 1..{MAX_QP}", self.qps)

    @property
    def resolution(self) -> str:
        """Such as `256x144`."""
        return f"{self.width}x{self.height}"


def _expect(holds: bool, what: str, rule: str, got: object) -> None:
    if not holds:
        raise UserError(f"Miniature's {what}", rule, str(got), "Change the setting.")


@dataclass(frozen=True)
class Take:
    """One clip to make: which footage, and which shot of it or excerpt from it."""

    source_index: int
    footage: Footage
    cut: Shot | Excerpt


def draw_takes(footage: Sequence[Footage], settings: MiniatureSettings) -> tuple[Take, ...]:
    """Draws every take; take i does not depend on how many there are.

    Args:
      footage: at least one; takes go round it.
      settings: of the miniature.

    Raises:
      VideoError: a video is cut short, or too short for a clip.
    """
    return tuple(
        _draw_take(index, footage[(index - 1) % len(footage)], settings)
        for index in range(1, settings.num_sources + 1)
    )


def _draw_take(index: int, footage: Footage, settings: MiniatureSettings) -> Take:
    rng = np.random.default_rng([settings.seed, 2, index])
    aspect = settings.width / settings.height
    if footage.is_video:
        return Take(index, footage, draw_excerpt(rng, footage.path, aspect, settings.num_frames))
    width, height = photo_size(footage.path)
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
    panel = replace(settings.panel, seed=settings.seed)
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
    """Makes, codes and judges one clip, and writes its files below `folder`.

    Raises:
      VideoError: the footage is damaged where the take needs it.
      OSError: the photograph cannot be read, or the folder not be written.
    """
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


class ProduceClips(beam.DoFn):
    """`produce` for every take; what cannot be made goes to the output `rejects`."""

    def __init__(self, settings: MiniatureSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._made = beam.metrics.Metrics.counter("clips", "made")
        self._rejected = beam.metrics.Metrics.counter("clips", "rejected")

    def process(
        self, take: Take
    ) -> Iterable[SourceLabels | beam.pvalue.TaggedOutput[Literal["rejects"], Reject]]:
        """Yields the clip's labels, or one reject."""
        try:
            labels = produce(take, self._settings, self._folder)
        except VideoError as error:
            self._rejected.inc()
            where = f"{source_id(take.source_index)} from {take.footage.path}"
            reject = Reject(what=SOURCE, where=where, stage="make", reason=str(error))
            yield beam.pvalue.TaggedOutput(REJECTS, reject)
            return
        self._made.inc()
        yield labels


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
        (self._folder / MARKER_NAME).write_text(marker_text(self._marker))
        yield len(ordered)


def make_miniature(
    footage: Sequence[Footage],
    settings: MiniatureSettings,
    folder: Path,
    options: PipelineOptions,
    *,
    left_out: Sequence[Reject] = (),
) -> None:
    """Makes the whole miniature; `folder` is complete or absent.

    The same footage and settings give the same files, whatever the number of workers.

    Args:
      footage: photographs and videos, at least one.
      settings: of the miniature.
      folder: to make; its parent must be writable. A miniature that stands there is replaced.
      options: of the Beam runner.
      left_out: files that were no footage, for the table of rejects.

    Raises:
      UserError: the folder cannot be written or holds something else, a video is too short, or
        more than 5 % of the clips cannot be made; a table of the rejects then lies beside it.
    """
    takes = draw_takes(footage, settings)
    marker = marker_of(takes, settings)
    refusal = folder.with_name(f"{folder.name}-{REJECTS_FILE}")
    with (
        complete_folder(folder, marker=MARKER_NAME) as unfinished,
        clear_failures(refusal, folder),
        beam.Pipeline(options=options) as pipeline,
    ):
        clips = (
            pipeline
            | "Takes" >> beam.Create(takes)
            | "Spread" >> beam.Reshuffle()
            | "FilmEncodeJudge"
            >> beam.ParDo(ProduceClips(settings, unfinished)).with_outputs(REJECTS, main="made")
        )
        _ = (
            clips[REJECTS]
            | "GatherRejects" >> beam.combiners.ToList()
            | "WriteRejects"
            >> beam.ParDo(WriteRejects(unfinished / REJECTS_FILE, refusal, left_out, len(takes)))
        )
        _ = (
            clips["made"]
            | "GatherLabels" >> beam.combiners.ToList()
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
        "settings": asdict(settings),
        "groups": {source_id(take.source_index): take.footage.group_id for take in takes},
    }


def marker_text(marker: dict[str, object]) -> str:
    """The marker as JSON for people, lists of plain numbers in one line each."""
    text = json.dumps(marker, indent=2)
    # Within JSON's strings there is no bare line break, so only lists can match.
    return re.sub(r"\[\n([^][{}\"]*)\n *\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def fingerprint(takes: Sequence[Take], settings: MiniatureSettings) -> str:
    """Hash of settings, cuts and the footage's names and sizes in bytes, 16 hex digits."""
    sizes = {take.footage.path: take.footage.path.stat().st_size for take in takes}
    parts = [
        asdict(settings),
        [
            (take.source_index, take.footage.group_id, sizes[take.footage.path], asdict(take.cut))
            for take in takes
        ],
        asdict(VIDEOSET),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
