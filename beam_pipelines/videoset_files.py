"""Finds VideoSet's clips and labels below a folder and matches them, by name alone."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from beam_pipelines.elements import JudgedSource
from beam_pipelines.rejects import SOURCE, Reject, lost_sources
from laser_dist.errors import UserError
from laser_dist.jnd.labels import LabelTable, SourceLabels, read_videoset_labels
from laser_dist.jnd.layout import MARKER_NAME, ClipName, is_hidden, parse_clip_name

Found = dict[str, dict[int, tuple[ClipName, Path]]]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What lies below a folder.

    Attributes:
      sources: that can be built, by id.
      rejects: that cannot, and why.
      repairs: made to the label tables.
      simulated: what the marker says of simulated viewers; empty for real ones.
      seed: of the simulation, None for real viewers.
      fingerprint: hash of labels, of the clips' names and sizes, of groups and of what the marker
        says, 16 hex digits.
    """

    sources: tuple[JudgedSource, ...]
    rejects: tuple[Reject, ...]
    repairs: tuple[str, ...]
    simulated: str
    seed: int | None
    fingerprint: str

    @property
    def num_sources(self) -> int:
        """Number of sources, those that cannot be built included."""
        return len(self.sources) + len(lost_sources(self.rejects))


def take_inventory(folder: Path, resolution: str) -> Inventory:
    """Finds and matches all clips and labels of one resolution.

    Args:
      folder: searched with all that is below it.
      resolution: such as "1280x720".

    Returns:
      The sources that can be built as far as names tell, ascending by id, and the rejects.

    Raises:
      UserError: no such folder, no label tables, no clip at all, or a marker that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(
            f"Folder {folder}", "VideoSet's clips and labels", "none", "Check the path."
        )
    table = read_videoset_labels(folder, resolution)
    found, rejects = _find_clips(folder, resolution)
    if not found:
        raise UserError(
            f"Folder {folder}",
            f"clips such as videoSRC001_{resolution}_30_qp_22.264",
            "none of that name",
            "Check the folder and the resolution.",
        )
    marker = _read_marker(folder)
    groups = marker.get("groups", {})
    labels = {source.source_id: source for source in table.sources}
    faults = {fault.source_id: f"{fault.why} ({fault.place})" for fault in table.faults}
    sources: list[JudgedSource] = []
    for source_id in sorted(found.keys() | labels.keys() | faults.keys()):
        fault = _fault(source_id, found, labels, faults)
        if fault is not None:
            rejects.append(fault)
            continue
        clips = found[source_id]
        sources.append(
            JudgedSource(
                source_id=source_id,
                group_id=groups.get(source_id, source_id),
                fps=clips[0][0].fps,
                clips=tuple((qp, clips[qp][1]) for qp in sorted(clips)),
                labels=labels[source_id],
            )
        )
    return Inventory(
        sources=tuple(sources),
        rejects=tuple(rejects),
        repairs=table.repairs,
        simulated=marker.get("simulated_viewers", ""),
        seed=marker.get("settings", {}).get("seed"),
        fingerprint=_fingerprint(table, found, marker),
    )


def _find_clips(folder: Path, resolution: str) -> tuple[Found, list[Reject]]:
    found: Found = defaultdict(dict)
    rejects: list[Reject] = []
    for path in sorted(folder.rglob("videoSRC*")):
        name = parse_clip_name(path.name)
        if name is None or name.resolution != resolution or is_hidden(path, folder):
            continue
        if name.qp in found[name.source_id]:
            reason = f"a second clip of QP {name.qp}; the first is kept"
            rejects.append(Reject(what="clip", where=str(path), stage="find", reason=reason))
            continue
        found[name.source_id][name.qp] = (name, path)
    return found, rejects


def _fault(
    source_id: str, found: Found, labels: dict[str, SourceLabels], faults: dict[str, str]
) -> Reject | None:
    """Why a source cannot be built, as far as names and labels tell."""
    if source_id in faults:
        reason = faults[source_id]
    elif source_id not in labels:
        reason = "clips, but no row in the label tables"
    elif source_id not in found:
        reason = "a row in the label tables, but no clip"
    elif 0 not in found[source_id]:
        reason = "no reference (QP 0)"
    else:
        return None
    return Reject(what=SOURCE, where=source_id, stage="find", reason=reason)


def _read_marker(folder: Path) -> dict:
    """What a miniature at or below the folder says of itself; empty for the real VideoSet."""
    found = [path for path in sorted(folder.rglob(MARKER_NAME)) if not is_hidden(path, folder)]
    if not found:
        return {}
    path, *others = found
    if others:
        raise UserError(
            f"Folder {folder}", f"one {MARKER_NAME}", f"{len(found)}", "Name one miniature."
        )
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"Marker {path}", "JSON", str(error), "Make the miniature again."
        ) from error
    # A marker that does not say so would have simulated viewers pass for people.
    if not isinstance(marker, dict) or not marker.get("simulated_viewers"):
        raise UserError(
            f"Marker {path}",
            "what the simulated viewers are, under simulated_viewers",
            "nothing of that name",
            "Make the miniature again.",
        )
    return marker


def _fingerprint(table: LabelTable, found: Found, marker: dict) -> str:
    clips = [
        (str(name.path), path.stat().st_size)
        for source_id in sorted(found)
        for _, (name, path) in sorted(found[source_id].items())
    ]
    told = json.dumps(marker, sort_keys=True)  # who belongs together decides the splits
    return hashlib.sha256(repr((table.sources, clips, told)).encode()).hexdigest()[:16]
