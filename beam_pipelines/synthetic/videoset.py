"""Synthetic VideoSet: labeled clips in VideoSet's layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from beam_pipelines.synthetic.footage import SyntheticSettings, Take, expect, take_frames
from laser_dist.jnd.scale import MAX_QP, NUM_LEVELS
from laser_dist.jnd.videoset_labels import (
    LevelLabel,
    SourceLabels,
    format_videoset_labels,
    label_file_name,
)
from laser_dist.jnd.videoset_layout import FRAME_RATES, ClipName, videoset_source_id
from laser_dist.simulation.observers import Judgment, judge_clip
from laser_dist.simulation.visibility import MaskingModel, visibility, visibility_threshold
from laser_dist.video.codec import VIDEOSET, decode, encode_h264
from laser_dist.video.frames import Clip

RATE = 30
ALL_QPS = tuple(range(1, MAX_QP + 1))


@dataclass(frozen=True, kw_only=True)
class VideosetSettings(SyntheticSettings):
    """Settings of a synthetic VideoSet.

    Attributes:
      qps: QPs to encode in addition to the reference's 0, two or more, strictly ascending, up to
        51.
    """

    MAX_SOURCES: ClassVar[int] = 999  # file names have three digits

    num_sources: int = 600
    num_frames: int = 4
    qps: tuple[int, ...] = ALL_QPS

    def __post_init__(self) -> None:
        super().__post_init__()
        ascends = tuple(sorted(set(self.qps))) == self.qps and len(self.qps) >= 2
        in_range = ascends and set(self.qps) <= set(ALL_QPS)
        expect(in_range, "qps", f"two or more, ascending within 1..{MAX_QP}", self.qps)

    @property
    def resolution(self) -> str:
        """Resolution, such as `256x144`."""
        return f"{self.width}x{self.height}"

    @property
    def viewers(self) -> str:
        """Description of the viewers."""
        return (
            f"{self.panel.num_viewers} simulated viewers: log-normal thresholds on a masked "
            "luma error, VideoSet's protocol with group anchors; no person has labeled these clips"
        )

    @property
    def encoder(self) -> Mapping[str, object]:
        """The settings of x264, which the fingerprint covers."""
        return asdict(VIDEOSET)

    @property
    def provenance(self) -> Mapping[str, object]:
        """Kind; each stream names its encoder."""
        return {"kind": "videoset"}

    @property
    def last_files(self) -> str:
        """Glob pattern of the files that are written last, one per source."""
        return "*/*_qp_00.264"

    def source_id(self, source_index: int) -> str:
        """Return a source's id, such as `videoSRC001` for 1."""
        return videoset_source_id(source_index)

    def write_labels(self, labels: Sequence[SourceLabels], folder: Path) -> None:
        """Write the three label tables."""
        ordered = sorted(labels, key=lambda row: row.source_id)
        for level_index in range(NUM_LEVELS):
            name = label_file_name(self.resolution, level_index)
            (folder / name).write_text(format_videoset_labels(ordered, level_index))

    def produce(self, take: Take, folder: Path, report: Callable[[int], None]) -> SourceLabels:
        """Make, encode and label one clip, and write its files below `folder`.

        Args:
          take: what to film or cut.
          folder: output folder.
          report: called with each quantizer before its file is written.

        Raises:
          VideoError: the footage is damaged within the take.
          OSError: `folder` cannot be written.
        """
        encoded = ClipVersions(make_clip(take, self), self.masking)
        judgments = judge(encoded, take.source_index, self)
        for qp in (*self.qps, 0):  # the reference is last: it shows that the others exist
            report(qp)
            name = ClipName(
                source_index=take.source_index,
                width=self.width,
                height=self.height,
                rate=RATE,
                qp=qp,
            )
            path = folder / name.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.stream(qp))
        return label_row(take.source_index, judgments)


def make_clip(take: Take, settings: VideosetSettings) -> Clip:
    """Film or cut one clip.

    Raises:
      VideoError: the footage is damaged within the take.
    """
    return Clip.from_rgb(take_frames(take, settings), FRAME_RATES[RATE])


@dataclass
class ClipVersions:
    """A clip and its encoded versions, made on first use."""

    reference: Clip
    masking: MaskingModel
    _streams: dict[int, bytes] = field(default_factory=dict)
    _decoded: dict[int, Clip] = field(default_factory=dict)

    def stream(self, qp: int) -> bytes:
        """Return the Annex B stream at a QP, with VideoSet's settings."""
        if qp not in self._streams:
            self._streams[qp] = encode_h264(self.reference, qp=qp, settings=VIDEOSET)
        return self._streams[qp]

    def decoded(self, qp: int) -> Clip:
        """Return the frames at a QP; at 0 the reference, as QP 0 is lossless."""
        if qp == 0:
            return self.reference
        if qp not in self._decoded:
            self._decoded[qp] = decode(self.stream(qp), fps=self.reference.fps)
        return self._decoded[qp]

    def visibilities(self, qps: Sequence[int]) -> np.ndarray:
        """Compute the visibility of the errors at each QP against the reference.

        Returns:
          [Q] float, 1 being the median viewer's threshold.
        """
        threshold = visibility_threshold(self.reference, self.masking)
        return np.array(
            [visibility(self.reference, self.decoded(qp), threshold, self.masking) for qp in qps]
        )


def judge(
    encoded: ClipVersions, source_index: int, settings: VideosetSettings
) -> tuple[Judgment, ...]:
    """Let the simulated viewers find the three levels of one clip."""
    panel = replace(settings.panel, seed=settings.seed)
    visibilities = encoded.visibilities(settings.qps)
    return judge_clip(np.array(settings.qps), visibilities, panel, clip_seed=source_index)


def label_row(source_index: int, judgments: Sequence[Judgment]) -> SourceLabels:
    """Convert a clip's judgments to a row of VideoSet's label tables."""
    first, second, third = (
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
    return SourceLabels(videoset_source_id(source_index), (first, second, third))


def _looks_normal(samples: Sequence[int]) -> int:
    """Compute VideoSet's normality flag: 1 for a kurtosis between 2 and 4 (its section 4)."""
    from scipy.stats import kurtosis

    if len(set(samples)) == 1:
        return 0
    return int(2 <= kurtosis(samples, fisher=False) <= 4)
