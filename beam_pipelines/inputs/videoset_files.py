"""Finds VideoSet's clips and labels among files and matches them, by name alone."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from beam_pipelines.elements import JndLevel, LabeledSource
from beam_pipelines.inputs.inventory import (
    Clips,
    Inventory,
    fingerprint_of,
    first_of_each,
    label_files,
    match_sources,
    missing_clips,
    read_marker,
)
from beam_pipelines.rejects import FILE, Reject
from beam_pipelines.storage import StoredFile
from laser_dist.errors import UserError
from laser_dist.jnd.scale import NUM_LEVELS, QP
from laser_dist.jnd.videoset_labels import SourceLabels, label_file_name, parse_videoset_labels
from laser_dist.jnd.videoset_layout import CLIP_SUFFIXES, ClipName, parse_clip_name

LevelDefinition = Literal["jnd", "mean"]
LEVEL_DEFINITIONS: dict[LevelDefinition, str] = {
    "jnd": "the label tables' column jnd, about the 25th percentile",
    "mean": "the mean of the viewers' samples",
}


def take_inventory(
    files: Sequence[StoredFile],
    folder: str,
    resolution: str,
    *,
    level_definition: LevelDefinition = "jnd",
) -> Inventory:
    """Matches all clips and labels of one resolution.

    Args:
      files: all that lie below the folder.
      folder: for messages.
      resolution: such as "1280x720".
      level_definition: what the value of a level is: the tables' column `jnd`, or the mean of the
        viewers' samples. Frames are those of the clip at that value rounded half up (`Scale`).

    Returns:
      The sources that can be built as far as names tell, ascending by id, and the rejects.

    Raises:
      UserError: no label tables, no clip at all, or a marker that cannot be read.
    """
    wanted = {label_file_name(resolution, level) for level in range(NUM_LEVELS)}
    tables = label_files(files, wanted.__contains__)
    table = parse_videoset_labels(tables, resolution, where=folder)
    clips, rejects = _find_clips(files, resolution)
    names = {key: _name_of(of_source[min(of_source)]) for key, of_source in clips.items()}
    if not clips:
        raise UserError(
            f"Folder {folder}",
            f"clips such as videoSRC001_{resolution}_30_qp_22.264",
            "none of that name",
            "Check the folder and the resolution.",
        )

    def fault_of(source_id: str) -> str | None:
        if QP.reference not in clips[source_id]:
            return "no reference (QP 0)"
        if len(_rates(clips[source_id].values())) > 1:
            return "clips of 24 and of 30 frames per second"
        return _fault_of_levels(_levels(labels[source_id], level_definition))

    def name_of(source_id: str, qp: int) -> str:
        return replace(names[source_id], qp=qp).path.name

    labels = {source.source_id: source for source in table.sources}
    usable, unmatched = match_sources(clips, labels, table.faults, fault_of)
    marker = read_marker(files, folder)
    groups = marker.get("groups", {})
    return Inventory(
        sources=tuple(
            _source(
                names[source_id],
                clips_of_source,
                labels[source_id],
                level_definition,
                groups.get(source_id, source_id),
            )
            for source_id, clips_of_source in usable.items()
        ),
        rejects=(*rejects, *unmatched, *missing_clips(usable, QP, name_of)),
        repairs=table.repairs,
        level_definition=LEVEL_DEFINITIONS[level_definition],
        marker=marker,
        fingerprint=fingerprint_of((table.sources, level_definition), clips, name_of, marker),
    )


def resolutions_among(files: Sequence[StoredFile], resolutions: Sequence[str]) -> list[str]:
    """Those of the resolutions that have clips among the files; without any, those with labels.

    VideoSet's twelve tables come together, whatever clips were fetched.
    """
    names = {file.name for file in files}
    clips = {clip.resolution for clip in map(parse_clip_name, names) if clip is not None}
    with_clips = [each for each in resolutions if each in clips]
    return with_clips or [each for each in resolutions if label_file_name(each, 0) in names]


def _find_clips(files: Sequence[StoredFile], resolution: str) -> tuple[Clips, list[Reject]]:
    candidates: list[tuple[str, int, StoredFile]] = []
    strangers: list[Reject] = []
    for file in files:
        name = parse_clip_name(file.name)
        if name is not None and name.qp <= QP.highest:
            if name.resolution == resolution:
                candidates.append((name.source_id, name.qp, file))
        elif file.name.startswith("videoSRC"):
            why = "not a clip's name, such as videoSRC001_640x360_30_qp_22.264"
            strangers.append(Reject(what=FILE, where=str(file), stage="find", why=why))
    clips, copies = first_of_each(candidates, _preference)
    return clips, [*strangers, *copies]


def _name_of(file: StoredFile) -> ClipName:
    name = parse_clip_name(file.name)
    assert name is not None  # only such files are taken for clips
    return name


def _preference(file: StoredFile) -> tuple[int, str]:
    """As published first: copies in other containers may have been coded again."""
    return CLIP_SUFFIXES.index(file.name.rpartition(".")[2]), file.place


def _rates(files: Iterable[StoredFile]) -> set[int]:
    return {_name_of(file).rate for file in files}


def _fault_of_levels(levels: Sequence[JndLevel]) -> str | None:
    """Why levels are impossible: the tables' reader has seen to their own levels, not to means."""
    values = [level.value for level in levels]
    if any(not QP.lowest <= value <= QP.highest for value in values):
        return f"levels outside {QP.lowest}..{QP.highest}: {_listed(values)}"
    if values != sorted(values):
        return f"levels in another order than JND1, JND2, JND3: {_listed(values)}"
    return None


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _source(
    name: ClipName,
    clips: dict[int, StoredFile],
    labels: SourceLabels,
    level_definition: LevelDefinition,
    group_id: str,
) -> LabeledSource:
    return LabeledSource(
        source_id=name.source_id,
        group_id=group_id,
        scale=QP,
        fps=name.fps,
        size=(name.width, name.height),
        clips=tuple((qp, clips[qp]) for qp in sorted(clips)),
        levels=_levels(labels, level_definition),
    )


def _levels(
    labels: SourceLabels, level_definition: LevelDefinition
) -> tuple[JndLevel, JndLevel, JndLevel]:
    first, second, third = (
        JndLevel(
            value=level.jnd if level_definition == "jnd" else level.mean,
            mean=level.mean,
            samples=level.samples,
        )
        for level in labels.levels
    )
    return (first, second, third)
