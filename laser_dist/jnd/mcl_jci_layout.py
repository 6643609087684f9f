"""MCL-JCI's folder layout: names and paths of images and label texts.

The files of source 1 (the brackets are part of the folder name):

- source image: `source_images/[BMP]/ImageJND_SRC01.bmp`;
- JPEG at quality factor 50: `distorted_image/ImageJND_SRC01/ImageJND_SRC01_050.jpg`;
- viewers' labels: `JND_samples/JND_image_01.txt`;
- stair-step model: `SQF_data/Image_1_l_h.txt`.

Source: Jin et al. 2016 (MCL-JCI) and the files published with it.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from laser_dist.jnd.scale import QF

_IMAGE = re.compile(r"ImageJND_SRC(?P<source>[0-9]{2})(?:\.bmp|_(?P<quality>[0-9]{3})\.jpg)")
_SOURCE_ID = re.compile(r"ImageJND_SRC([0-9]{2})")
# Some copies pad the numbers with a zero.
_TEXTS = {
    "viewers": re.compile(r"JND_image_([0-9]{1,2})\.txt"),
    "stairs": re.compile(r"Image_([0-9]{1,2})_l_h\.txt"),
}

TextKind = Literal["viewers", "stairs"]
TEXT_KINDS: tuple[TextKind, TextKind] = ("viewers", "stairs")


@dataclass(frozen=True, kw_only=True, order=True)
class ImageName:
    """The parts of an image's name.

    Attributes:
      source_index: the SRC number, 1..99.
      quality_factor: 1..100; None for the uncompressed source.
    """

    source_index: int
    quality_factor: int | None

    @property
    def source_id(self) -> str:
        """Source id, such as `ImageJND_SRC01`."""
        return mcl_jci_source_id(self.source_index)

    @property
    def path(self) -> PurePosixPath:
        """Path of the image below the dataset's root."""
        if self.quality_factor is None:
            return PurePosixPath("source_images", "[BMP]", f"{self.source_id}.bmp")
        name = f"{self.source_id}_{self.quality_factor:03d}.jpg"
        return PurePosixPath("distorted_image", self.source_id, name)


@dataclass(frozen=True, kw_only=True, order=True)
class TextName:
    """The parts of a label text's name.

    Attributes:
      source_index: the SRC number, 1..99.
      kind: "viewers", with a line per viewer, or "stairs", the stair-step model.
    """

    source_index: int
    kind: TextKind

    @property
    def source_id(self) -> str:
        """Source id, such as `ImageJND_SRC01`."""
        return mcl_jci_source_id(self.source_index)

    @property
    def path(self) -> PurePosixPath:
        """Path of the text below the dataset's root."""
        if self.kind == "viewers":
            return PurePosixPath("JND_samples", f"JND_image_{self.source_index:02d}.txt")
        return PurePosixPath("SQF_data", f"Image_{self.source_index}_l_h.txt")


def mcl_jci_source_id(source_index: int) -> str:
    """Return the source id, such as `ImageJND_SRC01` for 1."""
    return f"ImageJND_SRC{source_index:02d}"


def mcl_jci_source_index(source_id: str) -> int:
    """Return the number in a source id.

    Raises:
      ValueError: the id is not `ImageJND_SRC01` to `ImageJND_SRC99`.
    """
    match = _SOURCE_ID.fullmatch(source_id)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"source_id must be ImageJND_SRC01..ImageJND_SRC99, got {source_id!r}")
    return int(match[1])


def parse_image_name(file_name: str) -> ImageName | None:
    """Parse a file name without folders; None if it is not an image of MCL-JCI."""
    match = _IMAGE.fullmatch(file_name)
    if match is None or int(match["source"]) == 0:
        return None
    quality = match["quality"]
    if quality is not None and not QF.lowest <= int(quality) <= QF.highest:
        return None
    return ImageName(
        source_index=int(match["source"]),
        quality_factor=None if quality is None else int(quality),
    )


def parse_text_name(file_name: str) -> TextName | None:
    """Parse a file name without folders; None if it is not a label text of MCL-JCI."""
    for kind in TEXT_KINDS:
        match = _TEXTS[kind].fullmatch(file_name)
        if match is not None and int(match[1]) > 0:
            return TextName(source_index=int(match[1]), kind=kind)
    return None
