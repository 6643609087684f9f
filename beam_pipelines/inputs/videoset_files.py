"""VideoSet's clips and labels among other files, found and matched by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from beam_pipelines.elements import JndLevel, SourceClips
from laser_dist.jnd.label_files import LabelFile
from laser_dist.jnd.scale import NUM_LEVELS, QP
from laser_dist.jnd.videoset_labels import (
    SourceLabels,
    VideoSetLabels,
    label_file_name,
    parse_videoset_labels,
)
from laser_dist.jnd.videoset_layout import CLIP_SUFFIXES, ClipName, film_of, parse_clip_name
from laser_dist.storage import StoredFile

SplitBy = Literal["film", "source"]
LevelDefinition = Literal["jnd", "mean"]
LEVEL_DEFINITIONS: dict[LevelDefinition, str] = {
    "jnd": "column jnd of the label tables, about the 25th percentile",
    "mean": "mean of the viewers' samples",
}


@dataclass(frozen=True)
class VideosetFiles:
    """VideoSet's layout at one resolution.

    Attributes:
      resolution: resolution of the clips, such as "1280x720".
      definition: whether the value of a level is column `jnd` of the label tables, or the mean of
        the viewers' samples. Frames come from the clip at `Scale.quantizer_at` of it.
      split_by: whether splits keep the clips of one film together, or of a synthetic dataset's
        footage, or only those of one source.
    """

    resolution: str
    definition: LevelDefinition = "jnd"
    split_by: SplitBy = "film"
    scale = QP

    @property
    def example(self) -> str:
        """File name of a clip, for messages."""
        return f"videoSRC001_{self.resolution}_30_qp_22.264"

    @property
    def keeps_groups(self) -> bool:
        """Whether splits keep groups together."""
        return self.split_by != "source"

    @property
    def level_definition(self) -> str:
        """What the value of a level is, as a noun phrase."""
        return LEVEL_DEFINITIONS[self.definition]

    def is_label_file(self, name: str) -> bool:
        """Return whether a file of this name holds labels."""
        return name in {label_file_name(self.resolution, level) for level in range(NUM_LEVELS)}

    def parse_labels(self, files: Sequence[LabelFile], folder: str) -> VideoSetLabels:
        """Parse the label tables; raises `UserError` if one is missing."""
        return parse_videoset_labels(files, self.resolution, location=folder)

    def clip_of(self, name: str) -> tuple[str, int] | None:
        """Return source id and QP of a clip's file; None for any other file."""
        clip = _parse(name)
        if clip is None or clip.resolution != self.resolution:
            return None
        return clip.source_id, clip.qp

    def is_misnamed(self, name: str) -> bool:
        """Return whether a file looks like a clip of the dataset, but cannot be parsed."""
        return name.startswith("videoSRC") and _parse(name) is None

    def clip_name(self, sibling: str, quantizer: int) -> str:
        """Return the file name of a clip, from the name of another clip of its source."""
        return replace(_parsed(sibling), qp=quantizer).path.name

    def preference(self, file: StoredFile) -> tuple[int, str]:
        """Return a sort key for copies of one clip: other containers may be re-encoded."""
        return CLIP_SUFFIXES.index(file.name.rpartition(".")[2]), file.location

    def video_format(self, clips: SourceClips) -> tuple[Fraction, tuple[int, int]]:
        """Return frame rate and size of the clips."""
        name = _parsed(clips[min(clips)].name)
        return name.fps, (name.width, name.height)

    def group_of(self, source_id: str, clips: SourceClips, footage: Mapping[str, str]) -> str:
        """Return what similar clips have in common: the footage if it is known, or the film."""
        film = film_of(_parsed(clips[min(clips)].name).source_index)
        return footage.get(source_id, film or source_id)

    def levels(self, labels: SourceLabels) -> tuple[JndLevel, JndLevel, JndLevel]:
        """Return JND1..3 of a source."""
        first, second, third = (
            JndLevel(
                value=level.jnd if self.definition == "jnd" else level.mean,
                mean=level.mean,
                samples=level.samples,
            )
            for level in labels.levels
        )
        return first, second, third

    def problem(self, clips: SourceClips, labels: SourceLabels) -> str | None:
        """Return why a source cannot be built; None if it can."""
        if QP.reference not in clips:
            return "no reference (QP 0)"
        if len({_parsed(file.name).rate for file in clips.values()}) > 1:
            return "clips of 24 and of 30 frames per second"
        # The parser of the label tables checks column jnd, but not the means.
        values = [level.value for level in self.levels(labels)]
        listed = ", ".join(f"{value:g}" for value in values)
        if any(not QP.lowest <= value <= QP.highest for value in values):
            return f"levels outside {QP.lowest}..{QP.highest}: {listed}"
        if values != sorted(values):
            return f"levels not in the order JND1, JND2, JND3: {listed}"
        return None


def resolutions_among(files: Sequence[StoredFile], resolutions: Sequence[str]) -> list[str]:
    """Return the resolutions that have clips among the files, or labels if there are no clips.

    VideoSet's label tables of all resolutions come together, whichever clips were downloaded.
    """
    names = {file.name for file in files}
    clips = {clip.resolution for clip in map(parse_clip_name, names) if clip is not None}
    with_clips = [each for each in resolutions if each in clips]
    return with_clips or [each for each in resolutions if label_file_name(each, 0) in names]


def _parse(name: str) -> ClipName | None:
    clip = parse_clip_name(name)
    return clip if clip is not None and clip.qp <= QP.highest else None


def _parsed(name: str) -> ClipName:
    clip = _parse(name)
    assert clip is not None  # only such files are taken for clips
    return clip
