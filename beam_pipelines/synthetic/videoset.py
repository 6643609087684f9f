"""Synthetic VideoSet: labeled clips in VideoSet's layout."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from beam_pipelines.progress import finished_clips
from beam_pipelines.synthetic.pipeline import Take, check_sources_and_size, expect, take_frames
from laser_dist.jnd.scale import MAX_QP, NUM_LEVELS
from laser_dist.jnd.videoset_labels import (
    LevelLabel,
    SourceLabels,
    format_videoset_labels,
    label_file_name,
)
from laser_dist.jnd.videoset_layout import FRAME_RATES, ClipName, videoset_source_id
from laser_dist.simulation.observers import Judgment, Panel, judge_clip
from laser_dist.simulation.visibility import MaskingModel, visibility, visibility_threshold
from laser_dist.video.codec import VIDEOSET, decode, encode_h264
from laser_dist.video.frames import Clip

RATE = 30
ALL_QPS = tuple(range(1, MAX_QP + 1))
MAX_SOURCES = 999  # VideoSet's names have three digits


@dataclass(frozen=True, kw_only=True)
class VideosetSettings:
    """What a synthetic dataset VideoSet is made of.

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
        check_sources_and_size(self, MAX_SOURCES)
        ascends = tuple(sorted(set(self.qps))) == self.qps and len(self.qps) >= 2
        in_range = ascends and set(self.qps) <= set(ALL_QPS)
        expect(in_range, "qps", f"two or more, ascending within 1..{MAX_QP}", self.qps)

    @property
    def resolution(self) -> str:
        """Such as `256x144`."""
        return f"{self.width}x{self.height}"

    @property
    def viewers(self) -> str:
        """Who judged, for people to read."""
        return (
            f"{self.panel.num_viewers} simulated viewers: log-normal thresholds on a masked "
            "luma error, VideoSet's protocol with group anchors; no person has judged these clips"
        )

    @property
    def coder(self) -> Mapping[str, object]:
        """x264's options."""
        return asdict(VIDEOSET)

    @property
    def provenance(self) -> Mapping[str, object]:
        """Only the kind: each stream names its encoder."""
        return {"kind": "videoset"}

    def source_id(self, source_index: int) -> str:
        """Such as `videoSRC001` for 1."""
        return videoset_source_id(source_index)

    def produce(self, take: Take, folder: Path) -> SourceLabels:
        """`produce` with these settings."""
        return produce(take, self, folder)

    def write_labels(self, labels: Sequence[SourceLabels], folder: Path) -> None:
        """Writes the three label tables."""
        ordered = sorted(labels, key=lambda row: row.source_id)
        for level_index in range(NUM_LEVELS):
            name = label_file_name(self.resolution, level_index)
            (folder / name).write_text(format_videoset_labels(ordered, level_index))

    def num_finished(self, folder: Path) -> int:
        """Number of clips finished so far."""
        return finished_clips(folder)


def make_clip(take: Take, settings: VideosetSettings) -> Clip:
    """Films or cuts one clip.

    Raises:
      VideoError: the footage is damaged where the take needs it.
    """
    return Clip.from_rgb(take_frames(take, settings), FRAME_RATES[RATE])


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


def judge(coded: CodedClip, source_index: int, settings: VideosetSettings) -> tuple[Judgment, ...]:
    """Lets the simulated viewers find the three levels of one clip."""
    panel = replace(settings.panel, seed=settings.seed)
    visibilities = coded.visibilities(settings.qps)
    return judge_clip(np.array(settings.qps), visibilities, panel, clip_seed=source_index)


def label_row(source_index: int, judgments: Sequence[Judgment]) -> SourceLabels:
    """A clip's judgment as VideoSet's label tables hold it."""
    levels = tuple(
        LevelLabel(
            jnd=float(judgment.jnd_qp),
            mean=float(np.mean(judgment.samples)),
            anchor=float(judgment.anchor_qp),
            samples=judgment.samples,
            normality=_looks_normal(judgment.samples),
            standard_deviation=float(np.std(judgment.samples, ddof=1)),
        )
        for judgment in judgments
    )
    return SourceLabels(videoset_source_id(source_index), (levels[0], levels[1], levels[2]))


def _looks_normal(samples: Sequence[int]) -> int:
    """VideoSet's normality flag: 1 where kurtosis lies between 2 and 4 (its section 4)."""
    from scipy.stats import kurtosis

    if len(set(samples)) == 1:
        return 0
    return int(2 <= kurtosis(samples, fisher=False) <= 4)


def produce(take: Take, settings: VideosetSettings, folder: Path) -> SourceLabels:
    """Makes, codes and judges one clip, and writes its files below `folder`.

    Raises:
      VideoError: the footage is damaged where the take needs it.
      OSError: `folder` cannot be written.
    """
    coded = CodedClip(make_clip(take, settings), settings.masking)
    judgments = judge(coded, take.source_index, settings)
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
    return label_row(take.source_index, judgments)
