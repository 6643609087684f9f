"""Finds MCL-JCI's images and labels among files and matches them, by name alone."""

from collections.abc import Sequence
from itertools import pairwise
from math import isnan, nan

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
from laser_dist.jnd.mcl_jci_labels import Convention, MclJciSource, parse_mcl_jci_labels
from laser_dist.jnd.mcl_jci_layout import (
    ImageName,
    mcl_jci_source_index,
    parse_image_name,
    parse_text_name,
)
from laser_dist.jnd.scale import QF

_ORIGINAL = -1  # in place of a quality factor
LEVEL_DEFINITIONS: dict[Convention, str] = {
    "viewers": "the quality factor at which three of four viewers are satisfied, just",
    "stairs": "the stair-step model's quality factors below 100, the first three",
}


def take_inventory(
    files: Sequence[StoredFile], folder: str, *, convention: Convention
) -> Inventory:
    """Matches all images and labels.

    Args:
      files: all that lie below the folder.
      folder: for messages.
      convention: what the value of a level is.

    Returns:
      The sources that can be built as far as names tell, ascending by id, and the rejects. A source
      needs the JPEG of quality factor 100, which viewers compared with, or the BMP to make it from.

    Raises:
      UserError: no labels, no image at all, or a marker that cannot be read.
    """
    texts = label_files(files, lambda name: parse_text_name(name) is not None)
    table = parse_mcl_jci_labels(texts, where=folder)
    found, rejects = _find_images(files)
    clips = {key: dict(of_source) for key, of_source in found.items()}
    originals = {key: of_source.pop(_ORIGINAL, None) for key, of_source in clips.items()}
    if not clips:
        raise UserError(
            f"Folder {folder}",
            "images such as ImageJND_SRC01_050.jpg",
            "none of that name",
            "Check the folder.",
        )

    labels = {source.source_id: source for source in table.sources}

    def fault_of(source_id: str) -> str | None:
        if QF.reference not in clips[source_id] and originals[source_id] is None:
            return "no reference: neither the JPEG of quality factor 100 nor the BMP"
        levels = labels[source_id].levels(convention)
        rises = [pair for pair in pairwise(levels) if pair[1] > pair[0]]  # false where missing
        if rises:
            return "levels that rise from one to the next: " + ", ".join(f"{x:g}" for x in levels)
        if all(isnan(level) for level in levels):
            lacks = {"viewers": "two viewers of it", "stairs": "a stair file"}[convention]
            return f"no level: {convention} needs {lacks}"
        return None

    usable, unmatched = match_sources(clips, labels, table.faults, fault_of)
    marker = read_marker(files, folder)
    groups = marker.get("groups", {})
    return Inventory(
        sources=tuple(
            LabeledSource(
                source_id=source_id,
                group_id=groups.get(source_id, source_id),
                scale=QF,
                fps=None,
                size=None,
                clips=tuple(sorted(clips_of_source.items())),
                original=originals[source_id],
                levels=_levels(labels[source_id], convention),
            )
            for source_id, clips_of_source in usable.items()
        ),
        rejects=(*rejects, *unmatched, *missing_clips(usable, QF, _name_of)),
        repairs=table.repairs,
        level_definition=LEVEL_DEFINITIONS[convention],
        marker=marker,
        fingerprint=fingerprint_of((table.sources, convention), found, _name_of, marker),
    )


def _find_images(files: Sequence[StoredFile]) -> tuple[Clips, list[Reject]]:
    candidates: list[tuple[str, int, StoredFile]] = []
    strangers: list[Reject] = []
    for file in files:
        name = parse_image_name(file.name)
        if name is not None:
            quality = _ORIGINAL if name.quality_factor is None else name.quality_factor
            candidates.append((name.source_id, quality, file))
        elif file.name.startswith("ImageJND_"):
            why = "not an image's name, such as ImageJND_SRC01_050.jpg"
            strangers.append(Reject(what=FILE, where=str(file), stage="find", why=why))
    found, copies = first_of_each(candidates, lambda file: file.place)
    return found, [*strangers, *copies]


def _name_of(source_id: str, quality: int) -> str:
    factor = None if quality == _ORIGINAL else quality
    return ImageName(source_index=mcl_jci_source_index(source_id), quality_factor=factor).path.name


def _levels(labels: MclJciSource, convention: Convention) -> tuple[JndLevel, JndLevel, JndLevel]:
    first, second, third = (
        JndLevel(value=value, mean=nan if isnan(value) else _mean(samples), samples=samples)
        for value, samples in zip(labels.levels(convention), labels.samples, strict=True)
    )
    return (first, second, third)


def _mean(samples: Sequence[int]) -> float:
    return sum(samples) / len(samples) if samples else nan
