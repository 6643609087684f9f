"""What flows through the dataset's pipeline."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from laser_dist.jnd.labels import SourceLabels


@dataclass(frozen=True, kw_only=True)
class JudgedSource:
    """One source with its coded clips and its labels, found and matched, nothing read yet.

    Attributes:
      source_id: such as `videoSRC001`.
      group_id: what splits keep whole; the source itself where clips share no footage.
      fps: frames per second of raw streams.
      clips: (QP, path) of the coded clips, by QP; QP 0 is the reference.
      labels: the viewers' three levels.
    """

    source_id: str
    group_id: str
    fps: Fraction
    clips: tuple[tuple[int, Path], ...]
    labels: SourceLabels

    @property
    def level_qps(self) -> tuple[int, int, int]:
        """The QP whose frame shows each level: the level rounded half up, within 1..51."""
        first, second, third = (min(max(int(x.jnd + 0.5), 1), 51) for x in self.labels.levels)
        return (first, second, third)


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """Quality and cost of one source at one QP; a row of the quality table.

    Attributes:
      source_id: such as `videoSRC001`.
      qp: quantiser index.
      num_bytes: of the coded clip.
      bitrate_kbps: kilobits (1000) per second.
      psnr_y_db: luma, mean over frames.
      psnr_rgb_db: RGB at the model's resolution, mean over frames.
      ssim: luma, at most 1.
      xpsnr_db: luma.
      origin: "file" where the clip came with the dataset, "encoded" where it was made anew.
      encoder: x264's version, empty where the stream does not say.
    """

    source_id: str
    qp: int
    num_bytes: int
    bitrate_kbps: float
    psnr_y_db: float
    psnr_rgb_db: float
    ssim: float
    xpsnr_db: float
    origin: str
    encoder: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FramePair:
    """A raw frame and the same frame at the three levels: one example of the dataset.

    Attributes:
      frame_index: in the source.
      timestamp_s: in the source.
      raw: [H, W, 3] uint8 RGB, at the model's resolution.
      levels: [3, H, W, 3] uint8 RGB, at JND1, JND2 and JND3.
      psnr_db: (3,) of each level's frame against the raw one, RGB.
    """

    frame_index: int
    timestamp_s: float
    raw: np.ndarray
    levels: np.ndarray
    psnr_db: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSource:
    """All that is read off one source.

    Attributes:
      source: as found.
      level_origins: of each level's frames, as `QualityRow.origin`.
      spatial_information: SI of the reference (ITU-T P.910).
      temporal_information: TI of the reference.
      rows: of the quality table, ascending in QP.
      pairs: in order of time.
    """

    source: JudgedSource
    level_origins: tuple[str, str, str]
    spatial_information: float
    temporal_information: float
    rows: tuple[QualityRow, ...]
    pairs: tuple[FramePair, ...]
