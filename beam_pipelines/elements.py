"""What flows through the datasets' pipeline."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from beam_pipelines.rejects import Reject
from laser_dist.jnd.scale import Scale
from laser_dist.storage import StoredFile

ORIGINAL = -1
"""Stands for the uncompressed image among a source's quantizers."""
SourceClips = dict[int, StoredFile]
"""Quantizer to file."""
FROM_FILE = "file"
"""The clip came with the dataset."""
ENCODED = "encoded"
"""The clip was made anew."""


@dataclass(frozen=True, kw_only=True)
class JndLevel:
    """What viewers said of one level of one source.

    Attributes:
      value: the level, on the dataset's scale; NaN where it is missing.
      mean: of the samples; NaN where there are none.
      samples: one for each viewer who has this level, in no order that means anything.
    """

    value: float
    mean: float
    samples: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LabeledSource:
    """One source with its coded clips and its levels, found and matched, nothing read yet.

    Attributes:
      source_id: such as `videoSRC001`.
      group_id: what splits keep whole; the source itself where clips share no footage.
      scale: what quantizers and levels count in.
      fps: frames per second; None for a still image.
      size: (width, height) that its clips must have; None where their names do not say.
      clips: (quantizer, file) of the coded clips, ascending; the reference is among them, or can
        be made from `original`.
      original: what the clips were coded from, where the dataset has it; None where the reference
        is all there is.
      levels: JND1, JND2, JND3.
    """

    source_id: str
    group_id: str
    scale: Scale
    fps: Fraction | None
    size: tuple[int, int] | None
    clips: tuple[tuple[int, StoredFile], ...]
    original: StoredFile | None = None
    levels: tuple[JndLevel, JndLevel, JndLevel]

    @property
    def level_quantizers(self) -> tuple[int | None, ...]:
        """The quantizer whose frame shows each level (`Scale.rounded`); None where missing."""
        return tuple(
            None if math.isnan(level.value) else self.scale.nearest(level.value)
            for level in self.levels
        )


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """Quality and cost of one source at one quantizer; a row of the quality table.

    Attributes:
      source_id: such as `videoSRC001`.
      quantizer: QP or QF; the table's column has the scale's name.
      num_bits: of the coded pictures; None where the file holds them decoded.
      bitrate_kbps: kilobits (1000) per second; None for a still image, and as `num_bits`.
      psnr_y_db: luma, mean over frames.
      psnr_rgb_db: RGB at the model's resolution, mean over frames.
      ssim: luma, at most 1.
      xpsnr_db: luma.
      origin: "file" where the clip came with the dataset, "encoded" where it was made anew.
      encoder: such as "x264"; empty where the file does not say.
      encoder_version: such as "165"; empty alike.
    """

    source_id: str
    quantizer: int
    num_bits: int | None
    bitrate_kbps: float | None
    psnr_y_db: float
    psnr_rgb_db: float
    ssim: float
    xpsnr_db: float
    origin: str
    encoder: str
    encoder_version: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FramePair:
    """A raw frame and the same frame at the three levels: one example of the dataset.

    Attributes:
      frame_index: in the source.
      timestamp_s: in the source.
      raw: [H, W, 3] uint8 RGB, at the model's resolution.
      levels: [3, H, W, 3] uint8 RGB, at JND1, JND2 and JND3; zeros where a level is missing.
      psnr_db: (3,) of each level's frame against the raw one, RGB; NaN where it is missing.
    """

    frame_index: int
    timestamp_s: float
    raw: np.ndarray
    levels: np.ndarray
    psnr_db: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class SourceMetadata:
    """What all examples of one source have in common.

    Attributes:
      source_id: such as `videoSRC001`.
      group_id: what splits keep whole.
      levels: JND1, JND2, JND3.
      level_origins: of each level's frames, as `QualityRow.origin`; empty where it is missing.
      spatial_information: SI of the reference (ITU-T P.910).
      temporal_information: TI of the reference.
    """

    source_id: str
    group_id: str
    levels: tuple[JndLevel, JndLevel, JndLevel]
    level_origins: tuple[str, ...]
    spatial_information: float
    temporal_information: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSource:
    """All that is read off one source.

    Attributes:
      facts: common to its examples.
      rows: of the quality table, ascending.
      pairs: in order of time.
      rejects: of its clips that could not be used.
      is_final: whether the same files give the same again: none could not be read, none had a codec
        crash or come to no end.
    """

    facts: SourceMetadata
    rows: tuple[QualityRow, ...]
    pairs: tuple[FramePair, ...]
    rejects: tuple[Reject, ...]
    is_final: bool
