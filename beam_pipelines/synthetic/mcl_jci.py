"""Synthetic MCL-JCI: labeled JPEG images in MCL-JCI's layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from beam_pipelines.folders import unfinished_folder
from beam_pipelines.synthetic.pipeline import Take, check_sources_and_size, expect, take_frames
from laser_dist.jnd.mcl_jci_labels import ViewerChain, format_mcl_jci_viewers
from laser_dist.jnd.mcl_jci_layout import ImageName, TextName, mcl_jci_source_id
from laser_dist.jnd.scale import QF
from laser_dist.simulation.chained_observers import Chain, judge_image
from laser_dist.simulation.observers import Panel
from laser_dist.simulation.visibility import MaskingModel, visibility, visibility_threshold
from laser_dist.video.codec import decode
from laser_dist.video.frames import UInt8Array
from laser_dist.video.jpeg import QUALITIES, encode_jpeg, jpeg_encoder

ALL_QFS = tuple(QUALITIES)
MAX_SOURCES = 99  # MCL-JCI's names have two digits

ROOT = Path("MCL-JCI")

# MCL-JCI's levels, of which 25 % of the viewers have had enough, have means of 34.2, 23.7 and 18.4.
# With these two, 96 sources give 34.0, 24.7 and 16.8, and 7 % of the third ones are missing. Errors
# are harder to see than in the synthetic VideoSet, and coarse anchors hide more: viewers run out of
# levels, as MCL-JCI's do, before the quality factors end.
PANEL = Panel(increment=0.25, growth=2.0)
MASKING = MaskingModel(base=0.67)

ImageChains = tuple[int, tuple[Chain, ...]]
"""A source's number, and each viewer's levels."""


@dataclass(frozen=True, kw_only=True)
class MclJciSettings:
    """What a synthetic dataset MCL-JCI is made of.

    Attributes:
      num_sources: images, spread evenly over the footage, 1 to 99.
      width: of the images, in pixels; even, at least 16.
      height: of the images, in pixels; even, at least 16.
      qfs: coded quality factors, three or more, strictly ascending, from 1 on up to 100, which
        viewers compare the others with.
      seed: of takes, viewers and their trials, at least 0; stands in place of the panel's own.
      panel: the simulated viewers.
      masking: what hides errors from them.

    Raises:
      UserError: a value outside its range.
    """

    num_sources: int = 96
    width: int = 256
    height: int = 144
    qfs: tuple[int, ...] = ALL_QFS
    seed: int = 0
    panel: Panel = PANEL
    masking: MaskingModel = MASKING

    def __post_init__(self) -> None:
        check_sources_and_size(self, MAX_SOURCES)
        ascends = tuple(sorted(set(self.qfs))) == self.qfs and len(self.qfs) >= 3
        in_range = ascends and set(self.qfs) <= set(ALL_QFS) and self.qfs[-1:] == (QF.reference,)
        expect(in_range, "qfs", "three or more, ascending within 1..100 to 100", self.qfs)

    @property
    def num_frames(self) -> int:
        """One: these are stills."""
        return 1

    @property
    def viewers(self) -> str:
        """Who judged, for people to read."""
        return (
            f"{self.panel.num_viewers} simulated viewers: log-normal thresholds on a masked "
            "luma error, MCL-JCI's protocol with each viewer's own anchors; no person has judged "
            "these images"
        )

    @property
    def coder(self) -> Mapping[str, object]:
        """What `encode_jpeg` leaves no choice of."""
        return {"codec": "jpeg", "subsampling": "4:2:0", "progressive": False, "optimize": False}

    @property
    def provenance(self) -> Mapping[str, object]:
        """The encoder, which a JPEG file does not name."""
        return {"kind": "mcl-jci", "encoder": " ".join(jpeg_encoder())}

    def source_id(self, source_index: int) -> str:
        """Such as `ImageJND_SRC01` for 1."""
        return mcl_jci_source_id(source_index)

    def produce(self, take: Take, folder: Path) -> ImageChains:
        """`produce` with these settings."""
        return produce(take, self, folder)

    def write_labels(self, labels: Sequence[ImageChains], folder: Path) -> None:
        """Writes a text per source."""
        for source_index, chains in labels:
            path = folder / ROOT / TextName(source_index=source_index, kind="viewers").path
            path.parent.mkdir(parents=True, exist_ok=True)
            viewers = [
                ViewerChain(f"subject{number:02d}", chain)
                for number, chain in enumerate(chains, start=1)
            ]
            path.write_text(format_mcl_jci_viewers(viewers))

    def num_finished(self, folder: Path) -> int:
        """Number of images finished so far: the source is written last."""
        sources = (unfinished_folder(folder.absolute()) / source_path(1)).parent
        return sum(1 for _ in sources.glob("*.bmp"))


def source_path(source_index: int) -> Path:
    """Of the image as it was, below the synthetic dataset's folder."""
    return ROOT / ImageName(source_index=source_index, quality_factor=None).path


def coded_path(source_index: int, qf: int) -> Path:
    """Of the JPEG of a quality factor, below the synthetic dataset's folder."""
    return ROOT / ImageName(source_index=source_index, quality_factor=qf).path


def make_image(take: Take, settings: MclJciSettings) -> UInt8Array:
    """The image of a take: [height, width, 3] uint8 RGB; of a video, the excerpt's first frame.

    Raises:
      VideoError: the footage is damaged where the take needs it.
    """
    return take_frames(take, settings)[0]


@dataclass
class CodedImage:
    """An image and its JPEGs, made when first asked for."""

    source: UInt8Array
    masking: MaskingModel
    _files: dict[int, bytes] = field(default_factory=dict)

    def file(self, qf: int) -> bytes:
        """The JPEG of a quality factor."""
        if qf not in self._files:
            self._files[qf] = encode_jpeg(self.source, quality=qf)
        return self._files[qf]

    def visibilities(self, qfs: Sequence[int]) -> np.ndarray:
        """[Q] how far the errors at each quality factor stand out from the JPEG of 100."""
        reference = decode(self.file(QF.reference))
        threshold = visibility_threshold(reference, self.masking)
        return np.array(
            [visibility(reference, decode(self.file(qf)), threshold, self.masking) for qf in qfs]
        )


def judge(coded: CodedImage, source_index: int, settings: MclJciSettings) -> tuple[Chain, ...]:
    """Lets each simulated viewer find the levels of one image."""
    panel = replace(settings.panel, seed=settings.seed)
    qfs = settings.qfs[-2::-1]  # from fine to coarse, without the anchor
    return judge_image(np.array(qfs), coded.visibilities(qfs), panel, image_seed=source_index)


def produce(take: Take, settings: MclJciSettings, folder: Path) -> ImageChains:
    """Makes, codes and judges one image, and writes its files below `folder`.

    Raises:
      VideoError: the footage is damaged where the take needs it.
      OSError: `folder` cannot be written.
    """
    coded = CodedImage(make_image(take, settings), settings.masking)
    chains = judge(coded, take.source_index, settings)
    for qf in settings.qfs:
        path = folder / coded_path(take.source_index, qf)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coded.file(qf))
    path = folder / source_path(take.source_index)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coded.source).save(path)
    return take.source_index, chains
