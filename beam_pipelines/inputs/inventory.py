"""What lies below a folder: a dataset's clips and labels, found by name and matched by source."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_pipelines.elements import LabeledSource
from beam_pipelines.inputs.archives import read_stored
from beam_pipelines.rejects import CLIP, COPY, FILE, SOURCE, Reject, lost_sources
from beam_pipelines.storage import StoredFile
from laser_dist.errors import UserError
from laser_dist.jnd.label_files import LabelFault, LabelFile
from laser_dist.jnd.scale import Scale
from laser_dist.simulation import MARKER_NAME

Clips = dict[str, dict[int, StoredFile]]
"""Source id to quantizer to file."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """A dataset's input, known by names and labels; no clip has been read.

    Attributes:
      sources: that can be built, by id.
      rejects: that cannot, and why.
      repairs: made to the labels.
      level_definition: what the value of a level is, a noun phrase.
      marker: what a synthetic dataset says of itself; empty for people's judgments.
      fingerprint: hash of labels, of the clips' names and sizes, of groups and of what the marker
        says, 16 hex digits.
    """

    sources: tuple[LabeledSource, ...]
    rejects: tuple[Reject, ...]
    repairs: tuple[str, ...]
    level_definition: str
    marker: Mapping[str, Any]
    fingerprint: str

    @property
    def simulated(self) -> str:
        """What the simulated viewers are; empty for people."""
        return self.marker.get("simulated_viewers", "")

    @property
    def seed(self) -> int | None:
        """Of the simulation, None for people."""
        return self.marker.get("settings", {}).get("seed")

    @property
    def num_sources(self) -> int:
        """Number of sources, those that cannot be built included."""
        return len(self.sources) + len(lost_sources(self.rejects))


def first_of_each(
    candidates: Iterable[tuple[str, int, StoredFile]], preference: Callable[[StoredFile], Any]
) -> tuple[Clips, list[Reject]]:
    """One file for each clip; where there are several, the first in order of preference.

    Args:
      candidates: (source id, quantizer, file).
      preference: sorts the files of one clip, best first; files by themselves come before members
        of archives.

    Returns:
      The files, and a reject for each further copy.
    """
    found: Clips = defaultdict(dict)
    rejects: list[Reject] = []
    for source_id, quantizer, file in sorted(
        candidates,
        key=lambda found: (found[0], found[1], bool(found[2].member), preference(found[2])),
    ):
        if quantizer in found[source_id]:
            why = f"a second one; {found[source_id][quantizer]} is used"
            rejects.append(Reject(what=COPY, where=str(file), stage="find", why=why))
            continue
        found[source_id][quantizer] = file
    return found, rejects


def missing_clips(clips: Clips, scale: Scale, name_of: Callable[[str, int], str]) -> list[Reject]:
    """Rejects for clips that are not there.

    A user's copy need not have every quantizer. One that more than half of the sources have has
    been lost for the others: a reject for each. One that fewer have is told once, for all, and
    counts against no source. References are left to who knows whether they can be made.

    Args:
      clips: that were found.
      scale: of the quantizers.
      name_of: gives the name of a source's clip.
    """
    counts = Counter(quantizer for of_source in clips.values() for quantizer in of_source)
    rejects: list[Reject] = []
    for quantizer in sorted(set(counts) - {scale.reference}):
        lacking = [source_id for source_id in sorted(clips) if quantizer not in clips[source_id]]
        if 2 * counts[quantizer] <= len(clips):
            why = f"no such clip of {len(lacking)} of {len(clips)} sources"
            where = f"{scale.name} {quantizer}"
            rejects.append(Reject(what=FILE, where=where, stage="find", why=why))
            continue
        rejects += [
            Reject(
                what=CLIP,
                where=name_of(source_id, quantizer),
                stage="find",
                why="no such clip, though most sources have one",
                source_id=source_id,
            )
            for source_id in lacking
        ]
    return rejects


def match_sources(
    clips: Clips,
    labels: Mapping[str, Any],
    faults: Iterable[LabelFault],
    fault_of: Callable[[str], str | None],
) -> tuple[Clips, list[Reject]]:
    """The clips of sources that have clips and labels, and a reject for each source that lacks any.

    Args:
      clips: that were found.
      labels: source id to its labels.
      faults: sources whose labels cannot be true; none of these is in `labels`.
      fault_of: what else is wrong with a source, None if nothing.
    """
    told = {fault.source_id: f"impossible labels in {fault.place}: {fault.why}" for fault in faults}
    usable: Clips = {}
    rejects: list[Reject] = []
    for source_id in sorted(clips.keys() | labels.keys() | told.keys()):
        if source_id in told:
            why = told[source_id]
        elif source_id not in labels:
            why = "clips, but no row in the label tables"
        elif source_id not in clips:
            why = "a row in the label tables, but no clip"
        else:
            why = fault_of(source_id)
        if why is None:
            usable[source_id] = clips[source_id]
        else:
            rejects.append(Reject(what=SOURCE, where=source_id, stage="find", why=why))
    return usable, rejects


def label_files(files: Sequence[StoredFile], is_wanted: Callable[[str], bool]) -> list[LabelFile]:
    """The label files among others, read.

    Args:
      files: all of them.
      is_wanted: tells a label file by its name.

    Raises:
      UserError: one of them cannot be read.
    """
    found: list[LabelFile] = []
    for file in files:
        if is_wanted(file.name):
            try:
                found.append(LabelFile(file.name, str(file), read_stored(file)))
            except OSError as error:
                raise UserError(
                    f"Label file {file}", "a file that can be read", str(error), "Check it."
                ) from error
    return found


def read_marker(files: Sequence[StoredFile], folder: str) -> dict[str, Any]:
    """What a synthetic dataset among the files says of itself; empty for people's judgments."""
    found = [file for file in files if file.name == MARKER_NAME]
    if not found:
        return {}
    file, *others = found
    if others:
        raise UserError(
            f"Folder {folder}", f"one {MARKER_NAME}", f"{len(found)}", "Name one synthetic dataset."
        )
    try:
        marker = json.loads(read_stored(file))
    except (ValueError, OSError) as error:
        raise UserError(
            f"Marker {file}", "JSON", str(error), "Make the synthetic dataset again."
        ) from error
    # A marker that does not say so would have simulated viewers pass for people.
    if not isinstance(marker, dict) or not marker.get("simulated_viewers"):
        raise UserError(
            f"Marker {file}",
            "what the simulated viewers are, under simulated_viewers",
            "nothing of that name",
            "Make the synthetic dataset again.",
        )
    return marker


def fingerprint_of(
    labels: object, clips: Clips, name_of: Callable[[str, int], str], marker: Mapping[str, Any]
) -> str:
    """Hash of all that decides a dataset before its clips are read, 16 hex digits.

    Args:
      labels: whose `repr` tells all of them.
      clips: of which names and sizes count, not where they lie.
      name_of: gives the name of a source's clip.
      marker: of a synthetic dataset; who belongs together decides the splits.
    """
    sizes = [
        (name_of(source_id, quantizer), clips[source_id][quantizer].size)
        for source_id in sorted(clips)
        for quantizer in sorted(clips[source_id])
    ]
    told = json.dumps(marker, sort_keys=True)
    return hashlib.sha256(repr((labels, sizes, told)).encode()).hexdigest()[:16]
