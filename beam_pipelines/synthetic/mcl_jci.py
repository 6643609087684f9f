"""Synthetic MCL-JCI: labeled JPEG images in MCL-JCI's layout."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from beam_pipelines.synthetic.footage import SyntheticSettings, Take, expect, take_frames
from laser_dist.jnd.mcl_jci_labels import ViewerChain, format_mcl_jci_viewers
from laser_dist.jnd.mcl_jci_layout import ImageName, TextName, mcl_jci_source_id
from laser_dist.jnd.scale import QF
from laser_dist.simulation.chained_observers import Chain, judge_image
from laser_dist.simulation.observers import Panel
from laser_dist.simulation.visibility import MaskingModel, visibility, visibility_threshold
from laser_dist.video.codec import decode
from laser_dist.video.frames import UInt8Array
from laser_dist.video.images import QUALITIES, encode_jpeg, jpeg_encoder

ALL_QFS = tuple(QUALITIES)
ROOT = Path("MCL-JCI")

# The levels that 25% of MCL-JCI's viewers have noticed have means of 34.2, 23.7 and 18.4. With
# these two models, 96 sources give 34.0, 24.7 and 16.8, and 7% of the third levels are missing.
# Errors are harder to see than in the synthetic VideoSet, and coarse anchors hide more: as in
# MCL-JCI, viewers run out of levels before the quality factors end.
PANEL = Panel(increment=0.25, growth=2.0)
MASKING = MaskingModel(base=0.67)

ImageChains = tuple[int, tuple[Chain, ...]]
"""A source's number, and each viewer's levels."""


@dataclass(frozen=True, kw_only=True)
class MclJciSettings(SyntheticSettings):
    """Settings of a synthetic MCL-JCI.

    Attributes:
      qfs: quality factors to encode, three or more, strictly ascending, from 1 on up to 100, which
        viewers compare the others with.
    """

    MAX_SOURCES: ClassVar[int] = 99  # file names have two digits

    num_sources: int = 96
    qfs: tuple[int, ...] = ALL_QFS
    panel: Panel = PANEL
    masking: MaskingModel = MASKING

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(self.num_frames == 1, "num_frames", "1", self.num_frames)
        ascends = tuple(sorted(set(self.qfs))) == self.qfs and len(self.qfs) >= 3
        in_range = ascends and set(self.qfs) <= set(ALL_QFS) and self.qfs[-1:] == (QF.reference,)
        expect(in_range, "qfs", "three or more, ascending within 1..100 to 100", self.qfs)

    @property
    def viewers(self) -> str:
        """Description of the viewers."""
        return (
            f"{self.panel.num_viewers} simulated viewers: log-normal thresholds on a masked "
            "luma error, MCL-JCI's protocol with each viewer's own anchors; no person has labeled "
            "these images"
        )

    @property
    def encoder(self) -> Mapping[str, object]:
        """The fixed settings of `encode_jpeg`, which the fingerprint covers."""
        return {"codec": "jpeg", "subsampling": "4:2:0", "progressive": False, "optimize": False}

    @property
    def provenance(self) -> Mapping[str, object]:
        """Kind, and the encoder, which a JPEG file does not name."""
        return {"kind": "mcl-jci", "encoder": " ".join(jpeg_encoder())}

    @property
    def last_files(self) -> str:
        """Glob pattern of the files that are written last, one per source."""
        return f"{glob.escape(str(source_path(1).parent))}/*.bmp"

    def source_id(self, source_index: int) -> str:
        """Return a source's id, such as `ImageJND_SRC01` for 1."""
        return mcl_jci_source_id(source_index)

    def write_labels(self, labels: Sequence[ImageChains], folder: Path) -> None:
        """Write a text file per source."""
        for source_index, chains in labels:
            path = folder / ROOT / TextName(source_index=source_index, kind="viewers").path
            path.parent.mkdir(parents=True, exist_ok=True)
            viewers = [
                ViewerChain(f"subject{number:02d}", chain)
                for number, chain in enumerate(chains, start=1)
            ]
            path.write_text(format_mcl_jci_viewers(viewers))

    def produce(self, take: Take, folder: Path, report: Callable[[int], None]) -> ImageChains:
        """Make, encode and label one image, and write its files below `folder`.

        Args:
          take: what to film or cut.
          folder: output folder.
          report: called with each quantizer before its file is written.

        Raises:
          VideoError: the footage is damaged within the take.
          OSError: `folder` cannot be written.
        """
        encoded = ImageVersions(make_image(take, self), self.masking)
        chains = judge(encoded, take.source_index, self)
        for qf in self.qfs:
            report(qf)
            path = folder / encoded_path(take.source_index, qf)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.file(qf))
        path = folder / source_path(take.source_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(encoded.source).save(path)
        return take.source_index, chains


def source_path(source_index: int) -> Path:
    """Return the path of the uncompressed image, below the dataset's folder."""
    return ROOT / ImageName(source_index=source_index, quality_factor=None).path


def encoded_path(source_index: int, qf: int) -> Path:
    """Return the path of the JPEG of a quality factor, below the dataset's folder."""
    return ROOT / ImageName(source_index=source_index, quality_factor=qf).path


def make_image(take: Take, settings: MclJciSettings) -> UInt8Array:
    """Make the image of a take: [height, width, 3] uint8 RGB, an excerpt's first frame.

    Raises:
      VideoError: the footage is damaged within the take.
    """
    return take_frames(take, settings)[0]


@dataclass
class ImageVersions:
    """An image and its JPEGs, encoded on first use."""

    source: UInt8Array
    masking: MaskingModel
    _files: dict[int, bytes] = field(default_factory=dict)

    def file(self, qf: int) -> bytes:
        """Return the JPEG of a quality factor."""
        if qf not in self._files:
            self._files[qf] = encode_jpeg(self.source, quality=qf)
        return self._files[qf]

    def visibilities(self, qfs: Sequence[int]) -> np.ndarray:
        """Compute the visibility of the errors at each quality factor against the JPEG of 100.

        Returns:
          [Q] float, 1 being the median viewer's threshold.
        """
        reference = decode(self.file(QF.reference))
        threshold = visibility_threshold(reference, self.masking)
        return np.array(
            [visibility(reference, decode(self.file(qf)), threshold, self.masking) for qf in qfs]
        )


def judge(encoded: ImageVersions, source_index: int, settings: MclJciSettings) -> tuple[Chain, ...]:
    """Let each simulated viewer find the levels of one image."""
    panel = replace(settings.panel, seed=settings.seed)
    qfs = settings.qfs[-2::-1]  # from fine to coarse, without the anchor
    return judge_image(np.array(qfs), encoded.visibilities(qfs), panel, image_seed=source_index)
