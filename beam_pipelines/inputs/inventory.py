"""The clips and labels below a folder, found by name and matched by source; no clip is read."""

import fnmatch
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_pipelines.elements import ORIGINAL, LabeledSource, SourceClips
from beam_pipelines.inputs.archives import read_stored
from beam_pipelines.inputs.mcl_jci_files import MclJciFiles
from beam_pipelines.inputs.videoset_files import VideosetFiles
from beam_pipelines.rejects import CLIP, COPY, FILE, SOURCE, Reject, impaired_sources, lost_sources
from laser_dist.errors import UserError, nearest
from laser_dist.jnd.label_files import MAX_LABEL_BYTES, LabelFault, LabelFile, check_label_size
from laser_dist.simulation import MARKER_NAME
from laser_dist.storage import StoredFile, too_large

Clips = dict[str, SourceClips]
"""Source id to its clips."""
Layout = MclJciFiles | VideosetFiles
"""How a labeled dataset names its files, and what its labels mean."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """A dataset's input, known from file names and labels.

    Attributes:
      sources: sources that can be built, by id.
      rejects: inputs that cannot be used, with the reason.
      repairs: what was repaired in the labels, one line each.
      level_definition: what the value of a level is, as a noun phrase.
      marker: content of a synthetic dataset's marker; empty for labels from people.
      fingerprint: hash of labels, of names, sizes and known checksums of the clips, of groups and
        marker, 16 hex digits.
      keeps_groups: whether splits keep the sources of a group together.
      part: patterns of the source ids, if this is a part of the input; empty if it is all.
    """

    sources: tuple[LabeledSource, ...]
    rejects: tuple[Reject, ...]
    repairs: tuple[str, ...]
    level_definition: str
    marker: Mapping[str, Any]
    fingerprint: str
    keeps_groups: bool = True
    part: tuple[str, ...] = ()

    @property
    def simulated(self) -> str:
        """Description of the simulated viewers; empty for people."""
        return self.marker.get("simulated_viewers", "")

    @property
    def seed(self) -> int | None:
        """Seed of the simulation; None for people."""
        return self.marker.get("settings", {}).get("seed")

    @property
    def split_by(self) -> str:
        """What splits keep together: a `source`, `footage` of a synthetic dataset, or a `film`."""
        if all(kept == source_id for source_id, kept in self.kept_together.items()):
            return "source"
        return "footage" if self.marker else "film"

    @property
    def kept_together(self) -> dict[str, str]:
        """Source id to the id that it shares with the sources of its split: group or source."""
        return {
            source.source_id: source.group_id if self.keeps_groups else source.source_id
            for source in self.sources
        }

    @property
    def num_sources(self) -> int:
        """Number of sources, including those that cannot be built."""
        return len(self.sources) + len(lost_sources(self.rejects))

    def part_of(self, patterns: Sequence[str]) -> "Inventory":
        """Return the sources whose ids match shell patterns, and the rejects that affect them.

        Raises:
          UserError: a pattern matches no source.
        """
        known = sorted({source.source_id for source in self.sources} | lost_sources(self.rejects))
        for pattern in patterns:
            if not fnmatch.filter(known, pattern):
                raise UserError(f"No source matches {pattern}.", hint=nearest(pattern, known))
        named = {name for pattern in patterns for name in fnmatch.filter(known, pattern)}
        parts = repr((self.fingerprint, sorted(named)))
        return replace(
            self,
            sources=tuple(source for source in self.sources if source.source_id in named),
            rejects=tuple(each for each in self.rejects if impaired_sources([each]) <= named),
            fingerprint=hashlib.sha256(parts.encode()).hexdigest()[:16],
            part=tuple(patterns),
        )


def take_inventory(files: Sequence[StoredFile], folder: str, layout: Layout) -> Inventory:
    """Find and match the clips and labels of a dataset.

    Args:
      files: all files below the folder.
      folder: name of the folder, for messages.
      layout: layout of the dataset.

    Returns:
      The sources that can be built as far as names and labels show, and the rejects.

    Raises:
      UserError: no label files, no clips, or an unreadable marker.
    """
    labeled, large = _label_files(files, layout.is_label_file)
    try:
        table = layout.parse_labels(labeled, folder)
    except UserError:
        for file in large:  # perhaps the one that is missing
            check_label_size(str(file), file.size)
        raise
    found, rejects = _find_clips(files, layout)
    rejects += [
        Reject(
            what=FILE,
            where=str(file),
            stage="find",
            why=too_large("it", file.size, MAX_LABEL_BYTES).rstrip("."),
        )
        for file in large
    ]
    if not found:
        raise UserError(
            f"{folder} holds no clips with names such as {layout.example}.",
            hint="Check the folder and the configuration.",
        )
    labels = {source.source_id: source for source in table.sources}
    usable, unmatched = _match(found, labels, table.faults, layout)
    marker = read_marker(files, folder)
    footage = marker.get("groups", {})
    groups = {key: layout.group_of(key, clips, footage) for key, clips in usable.items()}
    return Inventory(
        sources=tuple(
            _source(source_id, clips, layout, labels[source_id], groups[source_id])
            for source_id, clips in usable.items()
        ),
        rejects=(*rejects, *unmatched, *missing_clips(usable, layout)),
        repairs=table.repairs,
        level_definition=layout.level_definition,
        marker=marker,
        fingerprint=_fingerprint(
            (table.sources, layout.definition, groups, layout.keeps_groups), found, layout, marker
        ),
        keeps_groups=layout.keeps_groups,
    )


def _find_clips(files: Sequence[StoredFile], layout: Layout) -> tuple[Clips, list[Reject]]:
    candidates: list[tuple[str, int, StoredFile]] = []
    misnamed: list[Reject] = []
    for file in files:
        clip = layout.clip_of(file.name)
        if clip is not None:
            candidates.append((*clip, file))
        elif layout.is_misnamed(file.name):
            why = f"not a valid name, such as {layout.example}"
            misnamed.append(Reject(what=FILE, where=str(file), stage="find", why=why))
    clips, copies = first_of_each(candidates, layout.preference)
    return clips, [*misnamed, *copies]


def first_of_each(
    candidates: Sequence[tuple[str, int, StoredFile]], preference: Callable[[StoredFile], Any]
) -> tuple[Clips, list[Reject]]:
    """Choose one file for each clip.

    Args:
      candidates: (source id, quantizer, file).
      preference: sort key of the copies of one clip; files on their own come before members of
        archives.

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
            used = found[source_id][quantizer]
            of_that_name = "the first of this name" if str(used) == str(file) else used
            why = f"a duplicate; {of_that_name} is used"
            rejects.append(Reject(what=COPY, where=str(file), stage="find", why=why))
            continue
        found[source_id][quantizer] = file
    return found, rejects


def missing_clips(clips: Clips, layout: Layout) -> list[Reject]:
    """Return rejects for missing clips.

    A user's copy may lack quantizers. If more than half of the sources have a quantizer, each
    source without it gets a reject. Otherwise one reject covers all of them and counts against no
    source. The reference is not checked here: it can sometimes be made from the original.
    """
    scale = layout.scale
    counts = Counter(quantizer for of_source in clips.values() for quantizer in of_source)
    rejects: list[Reject] = []
    for quantizer in sorted(set(counts) - {scale.reference, ORIGINAL}):
        lacking = [source_id for source_id in sorted(clips) if quantizer not in clips[source_id]]
        if 2 * counts[quantizer] <= len(clips):
            why = f"missing for {len(lacking)} of {len(clips)} sources"
            where = f"{scale.name} {quantizer}"
            rejects.append(Reject(what=FILE, where=where, stage="find", why=why))
            continue
        rejects += [
            Reject(
                what=CLIP,
                where=_name_of(clips[source_id], quantizer, layout),
                stage="find",
                why="missing, though most sources have it",
                source_id=source_id,
            )
            for source_id in lacking
        ]
    return rejects


def _match(
    clips: Clips, labels: Mapping[str, Any], faults: Sequence[LabelFault], layout: Layout
) -> tuple[Clips, list[Reject]]:
    """Return the sources with usable clips and labels, and a reject for each other one."""
    impossible = {
        fault.source_id: f"impossible labels in {fault.location}: {fault.reason}"
        for fault in faults
    }
    usable: Clips = {}
    rejects: list[Reject] = []
    for source_id in sorted(clips.keys() | labels.keys() | impossible.keys()):
        if source_id in impossible:
            why = impossible[source_id]
        elif source_id not in labels:
            why = "it has clips but no labels"
        elif source_id not in clips:
            why = "it has labels but no clips"
        else:
            why = layout.problem(clips[source_id], labels[source_id])
        if why is None:
            usable[source_id] = clips[source_id]
        else:
            rejects.append(Reject(what=SOURCE, where=source_id, stage="find", why=why))
    return usable, rejects


def _source(
    source_id: str, clips: SourceClips, layout: Layout, labels: Any, group_id: str
) -> LabeledSource:
    fps, size = layout.video_format(clips)
    return LabeledSource(
        source_id=source_id,
        group_id=group_id,
        scale=layout.scale,
        fps=fps,
        size=size,
        clips=tuple((q, clips[q]) for q in sorted(clips) if q != ORIGINAL),
        original=clips.get(ORIGINAL),
        levels=layout.levels(labels),
    )


def _label_files(
    files: Sequence[StoredFile], is_label_file: Callable[[str], bool]
) -> tuple[list[LabelFile], list[StoredFile]]:
    """Read the label files; return those above the limit, too."""
    found = [file for file in files if is_label_file(file.name)]
    read = [file for file in found if file.size <= MAX_LABEL_BYTES]
    large = [file for file in found if file.size > MAX_LABEL_BYTES]
    return [LabelFile(file.name, str(file), read_stored(file)) for file in read], large


def read_marker(files: Sequence[StoredFile], folder: str) -> dict[str, Any]:
    """Load the marker of a synthetic dataset; empty if there is none.

    Raises:
      UserError: several markers, or one that does not describe its simulated viewers.
    """
    found = [file for file in files if file.name == MARKER_NAME]
    if not found:
        return {}
    file, *others = found
    if others:
        raise UserError(
            f"{folder} holds {len(found)} synthetic datasets ({MARKER_NAME} files).",
            hint="Name the folder of one of them.",
        )
    check_label_size(str(file), file.size)
    try:
        marker = json.loads(read_stored(file))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read: {error}.", hint="Create the synthetic dataset again."
        ) from error
    # Without the description, simulated viewers would pass for people.
    if not isinstance(marker, dict) or not marker.get("simulated_viewers"):
        raise UserError(
            f"{file} does not describe the viewers under simulated_viewers.",
            hint="Create the synthetic dataset again.",
        )
    return marker


def _name_of(clips: SourceClips, quantizer: int, layout: Layout) -> str:
    return layout.clip_name(clips[min(clips)].name, quantizer)


def _fingerprint(labels: object, clips: Clips, layout: Layout, marker: Mapping[str, Any]) -> str:
    """Hash all that decides a dataset before its clips are read.

    Their folders and times do not count, so that a copy has the same fingerprint.
    """
    files = [
        (_name_of(of_source, quantizer, layout), file.size, file.crc)
        for _, of_source in sorted(clips.items())
        for quantizer, file in sorted(of_source.items())
    ]
    parts = repr((labels, files, json.dumps(marker, sort_keys=True)))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
