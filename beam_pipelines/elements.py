"""Elements and settings of the dataset pipeline."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from beam_pipelines.rejects import Reject
from laser_dist.jnd.scale import Scale
from laser_dist.storage import StoredFile
from laser_dist.video.frames import evenly_spaced_indices

FROM_FILE = "file"
"""Origin of a clip that came with the dataset."""
ENCODED = "encoded"
"""Origin of a clip that the pipeline encoded."""
ORIGINAL = -1
"""Stands for the uncompressed image among a source's quantizers."""
SourceClips = dict[int, StoredFile]
"""Quantizer to file."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Settings that decide the examples, in addition to the clips.

    Attributes:
      model_width: width of the frames, in pixels.
      model_height: height of the frames, in pixels.
      frames_per_second: number of frames per second of a source, at least one in total; None for
        all frames.
    """

    model_width: int
    model_height: int
    frames_per_second: float | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        return self.model_width, self.model_height

    def frame_indices(self, num_frames: int, fps: float) -> list[int]:
        """Return the frames to use: the centers of equal intervals of the clip."""
        count = num_frames
        if self.frames_per_second is not None:
            wanted = round(num_frames / fps * self.frames_per_second)
            count = int(min(max(wanted, 1), num_frames))
        return evenly_spaced_indices(num_frames, count)


@dataclass(frozen=True, kw_only=True)
class JndLevel:
    """One JND level of one source.

    Attributes:
      value: the level, on the dataset's scale; NaN if missing.
      mean: mean of the samples; NaN if there are none.
      samples: one value per viewer who has this level.
      viewers: name of the viewer of each sample; empty if the dataset does not name them.
    """

    value: float
    mean: float
    samples: tuple[int, ...]
    viewers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabeledSource:
    """One source with its encoded clips and its levels, matched but not read.

    Attributes:
      source_id: such as `videoSRC001`.
      group_id: what splits keep together; the source itself if clips share no footage.
      scale: scale of quantizers and levels.
      fps: frames per second; None for a still image.
      size: (width, height) that the clips must have; None if their names do not state it.
      clips: (quantizer, file) of the encoded clips, ascending; the reference is one of them, or can
        be made from `original`.
      original: uncompressed image that the clips were encoded from; None if there is none.
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
        """Quantizer whose frame shows each level (`Scale.quantizer_at`); None if missing."""
        return tuple(
            None if math.isnan(level.value) else self.scale.quantizer_at(level.value)
            for level in self.levels
        )


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """Quality and cost of one source at one quantizer; a row of the quality table.

    Attributes:
      source_id: such as `videoSRC001`.
      quantizer: QP or QF; the table's column has the scale's name.
      num_bits: size of the encoded pictures, or of a JPEG file; None if they are stored decoded.
      bitrate_kbps: kilobits (1000) per second; None for a still image, and like `num_bits`.
      psnr_y_db: as `ClipQuality.psnr_y_db`, and so on.
      psnr_y_min_db: luma, worst frame.
      psnr_y_p5_db: luma, 5th percentile over the frames.
      psnr_rgb_db: RGB at the model's resolution.
      ssim: luma, at most 1.
      xpsnr_db: luma.
      origin: "file" if the clip came with the dataset, "encoded" if the pipeline encoded it.
      encoder: such as "x264"; empty if the file does not name it.
      encoder_version: such as "165"; empty if the file does not name it.
    """

    source_id: str
    quantizer: int
    num_bits: int | None
    bitrate_kbps: float | None
    psnr_y_db: float
    psnr_y_min_db: float
    psnr_y_p5_db: float
    psnr_rgb_db: float
    ssim: float
    xpsnr_db: float
    origin: str
    encoder: str
    encoder_version: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredPair:
    """A raw frame and the same frame at the three levels: one example of the dataset.

    Attributes:
      frame_index: position in the source.
      timestamp_s: time in the source.
      raw: [H, W, 3] uint8 RGB, at the model's resolution.
      levels: [3, H, W, 3] uint8 RGB, at JND1, JND2 and JND3; zeros if a level is missing.
      psnr_db: (3,) RGB PSNR of each level's frame against the raw one; NaN if missing.
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
      group_id: what splits keep together.
      levels: JND1, JND2, JND3.
      level_origins: origin of each level's frames, as `QualityRow.origin`; empty if missing.
      spatial_information: SI of the reference (ITU-T P.910).
      temporal_information: TI of the reference (ITU-T P.910).
    """

    source_id: str
    group_id: str
    levels: tuple[JndLevel, JndLevel, JndLevel]
    level_origins: tuple[str, ...]
    spatial_information: float
    temporal_information: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSource:
    """Everything measured on one source.

    Attributes:
      metadata: common to its examples.
      rows: rows of the quality table, ascending.
      pairs: frame pairs, ordered by time.
      rejects: clips that could not be used.
      is_final: whether the same files give the same result again: no codec crashed or timed out.
    """

    metadata: SourceMetadata
    rows: tuple[QualityRow, ...]
    pairs: tuple[MeasuredPair, ...]
    rejects: tuple[Reject, ...]
    is_final: bool
