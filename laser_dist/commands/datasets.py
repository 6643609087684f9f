"""The datasets that can be built, their configurations, and prepared datasets in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.errors import UserError
from laser_dist.wording import count_text, notes, size_text

if TYPE_CHECKING:
    from laser_dist.storage import StoredFile

VIDEOSET = "videoset_jnd"
MCL_JCI = "mcl_jci_jnd"
RESOLUTIONS = {
    "synthetic": "256x144",
    "360p": "640x360",
    "540p": "960x540",
    "720p": "1280x720",
    "1080p": "1920x1080",
}
MAX_REJECT_RATE = 0.05
_REPLACE = "Replace it with --overwrite, or name another --data-dir."
CONFIGS = {VIDEOSET: tuple(RESOLUTIONS), MCL_JCI: ("viewers", "stairs", "synthetic")}


def choose_config(dataset: str, files: list[StoredFile]) -> str:
    """Choose the configuration for a folder's files.

    Args:
      dataset: one of `CONFIGS`.
      files: files in the folder.

    Returns:
      For VideoSet, the resolution that has clips, or 360p if several have; for MCL-JCI, `synthetic`
      if the folder has a marker, else `viewers`.
    """
    from beam_pipelines.inputs.videoset_files import resolutions_among
    from laser_dist.simulation import MARKER_NAME

    if dataset == MCL_JCI:
        is_synthetic = any(file.name == MARKER_NAME for file in files)
        return "synthetic" if is_synthetic else "viewers"
    there = resolutions_among(files, tuple(RESOLUTIONS.values()))
    found = [config for config, resolution in RESOLUTIONS.items() if resolution in there]
    return found[0] if len(found) == 1 else "360p"


def is_built(folder: str, fingerprint: str, manual_dir: str, *, replace_other: bool) -> bool:
    """Return whether a folder holds the requested dataset.

    Args:
      folder: folder of a dataset's version, a path or URL.
      fingerprint: fingerprint of the requested input.
      manual_dir: folder of its input, for messages.
      replace_other: whether another dataset may be replaced.

    Raises:
      UserError: the folder holds another dataset.
    """
    from laser_dist import storage

    if not storage.exists(storage.join(folder, "dataset_info.json")):
        return False
    try:
        check_same(folder, read_metadata(folder), fingerprint, manual_dir)
    except UserError:
        if replace_other:
            return False
        raise
    return True


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """Load the metadata of a prepared dataset.

    Raises:
      UserError: the metadata cannot be read.
    """
    from laser_dist import storage

    try:
        metadata = json.loads(storage.read_bytes(storage.join(folder, "metadata.json")))
        return {**metadata, "input_fingerprint": str(metadata["input_fingerprint"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} has no valid metadata.json ({type(error).__name__}: {error}).",
            hint="Build it again with --overwrite.",
        ) from error


def check_same(
    folder: str | Path, metadata: dict[str, Any], fingerprint: str, manual_dir: str | Path
) -> None:
    """Check that a prepared dataset was built from the requested input.

    Raises:
      UserError: the fingerprints differ.
    """
    if metadata["input_fingerprint"] != fingerprint:
        raise UserError(
            f"{folder} was built from other clips, labels or settings (fingerprint "
            f"{metadata['input_fingerprint']}) than {manual_dir} holds ({fingerprint}).",
            hint=_REPLACE,
        )


def summary(folder: str) -> list[tuple[str, str | list[str]]]:
    """Summarize the content of a prepared dataset: (name, value) of each line."""
    from beam_pipelines.rejects import REJECTS_FILE, read_rejects
    from laser_dist import storage

    info = json.loads(storage.read_bytes(storage.join(folder, "dataset_info.json")))
    metadata = read_metadata(folder)
    rejects, _ = read_rejects(storage.join(folder, REJECTS_FILE))
    size = sum(file.size for file in storage.list_files(folder))
    frame = f"{metadata['model_width']}x{metadata['model_height']}"
    return [
        *(_split_line(split, frame, metadata) for split in info["splits"]),
        *([("part", ", ".join(metadata["part"]))] if metadata["part"] else []),
        ("groups", f"one per {metadata['split_by']}"),
        ("levels", f"{metadata['scale']}: {metadata['level_definition']}"),
        ("rejects", notes(map(str, rejects))),
        ("repairs", notes(metadata["repairs"])),
        ("viewers", "SIMULATED" if metadata["simulated"] else "people"),
        ("size", size_text(size)),
        ("folder", folder),
    ]


def _split_line(split: dict[str, Any], frame: str, metadata: dict[str, Any]) -> tuple[str, str]:
    name, lengths = split["name"], [int(length) for length in split["shardLengths"]]
    frames = count_text(sum(lengths), "frame")
    sources = count_text(len(metadata["splits"][name]), "source")
    return name, f"{frames} of {frame}, from {sources}, in {count_text(len(lengths), 'file')}"
