"""MCL-JCI's images and labels among other files, found and matched by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isnan, nan

from beam_pipelines.elements import ORIGINAL, JndLevel, SourceClips
from laser_dist.jnd.label_files import LabelFile
from laser_dist.jnd.mcl_jci_labels import (
    Convention,
    MclJciLabels,
    MclJciSource,
    parse_mcl_jci_labels,
)
from laser_dist.jnd.mcl_jci_layout import parse_image_name, parse_text_name
from laser_dist.jnd.scale import QF
from laser_dist.storage import StoredFile

LEVEL_DEFINITIONS: dict[Convention, str] = {
    "viewers": "the quality factor at which 75% of the viewers are just satisfied",
    "stairs": "the stair-step model's first three quality factors below 100",
}
_REQUIREMENTS = {"viewers": "two viewers", "stairs": "a stair file"}


@dataclass(frozen=True)
class MclJciFiles:
    """MCL-JCI's layout.

    A source needs the JPEG of quality factor 100, which viewers compared with, or the BMP to make
    it from.

    Attributes:
      definition: which labels the levels are taken from.
    """

    definition: Convention
    scale = QF
    keeps_groups = True
    example = "ImageJND_SRC01_050.jpg"

    @property
    def level_definition(self) -> str:
        """What the value of a level is, as a noun phrase."""
        return LEVEL_DEFINITIONS[self.definition]

    def is_label_file(self, name: str) -> bool:
        """Return whether a file of this name holds labels."""
        return parse_text_name(name) is not None

    def parse_labels(self, files: Sequence[LabelFile], folder: str) -> MclJciLabels:
        """Parse the label files; raises `UserError` if there are none."""
        return parse_mcl_jci_labels(files, location=folder)

    def clip_of(self, name: str) -> tuple[str, int] | None:
        """Return source id and quality factor of an image's file; None for any other file."""
        image = parse_image_name(name)
        if image is None:
            return None
        return image.source_id, (ORIGINAL if image.quality_factor is None else image.quality_factor)

    def is_misnamed(self, name: str) -> bool:
        """Return whether a file looks like an image of the dataset, but cannot be parsed."""
        return name.startswith("ImageJND_") and parse_image_name(name) is None

    def clip_name(self, sibling: str, quantizer: int) -> str:
        """Return the file name of an image, from the name of another image of its source."""
        image = parse_image_name(sibling)
        assert image is not None  # only such files are taken for images
        factor = None if quantizer == ORIGINAL else quantizer
        return replace(image, quality_factor=factor).path.name

    def preference(self, file: StoredFile) -> str:
        """Return a sort key for copies of one image; the lowest is used."""
        return file.location

    def video_format(self, clips: SourceClips) -> tuple[None, None]:
        """Return no frame rate and no size: images are still, and names do not state a size."""
        del clips
        return None, None

    def group_of(self, source_id: str, clips: SourceClips, footage: Mapping[str, str]) -> str:
        """Return what similar images have in common: the footage if it is known, or the source."""
        del clips
        return footage.get(source_id, source_id)

    def levels(self, labels: MclJciSource) -> tuple[JndLevel, JndLevel, JndLevel]:
        """Return JND1..3 of a source."""
        first, second, third = (
            JndLevel(
                value=value,
                mean=nan if isnan(value) else _mean(samples),
                samples=samples,
                viewers=viewers,
            )
            for value, samples, viewers in zip(
                labels.levels(self.definition), labels.samples, labels.viewers, strict=True
            )
        )
        return first, second, third

    def problem(self, clips: SourceClips, labels: MclJciSource) -> str | None:
        """Return why a source cannot be built; None if it can."""
        if QF.reference not in clips and ORIGINAL not in clips:
            return "no reference: neither the JPEG of quality factor 100 nor the BMP"
        levels = labels.levels(self.definition)
        if any(second > first for first, second in pairwise(levels)):  # false for missing levels
            return "levels increase from one to the next: " + ", ".join(f"{x:g}" for x in levels)
        if all(isnan(level) for level in levels):
            return f"no level: {self.definition} needs {_REQUIREMENTS[self.definition]}"
        return None


def _mean(samples: Sequence[int]) -> float:
    return sum(samples) / len(samples) if samples else nan
