"""What lies in a miniature's folder: its marker, and a summary for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.wording import count_text, notes, size_text
from laser_dist.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Row = tuple[str, str]
"""Name and value, for people."""


def read_marker(folder: Path) -> dict[str, Any]:
    """What a miniature says of itself.

    Raises:
      UserError: the marker cannot be read.
    """
    from laser_dist.simulation import MARKER_NAME

    try:
        marker = json.loads((folder / MARKER_NAME).read_text())
        found = {name: marker[name] for name in ("fingerprint", "settings", "groups")}
        # VideoSet's kind does not name itself: it was there before there was another.
        return {"like": marker.get("like", "videoset"), **found}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Marker {folder / MARKER_NAME}",
            "JSON with fingerprint, settings and groups",
            f"{type(error).__name__}: {error}",
            "Remove that folder, or name another with --output.",
        ) from error


def check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to take another miniature for the one that is asked for.

    Raises:
      UserError: they differ; the message says in which settings.
    """
    if found["fingerprint"] == wanted["fingerprint"]:
        return
    likes = [marker.get("like", "videoset") for marker in (found, wanted)]
    old, new = (json.loads(json.dumps(marker["settings"])) for marker in (found, wanted))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    other = "with another " + (", ".join(differing) or "choice of footage")
    if likes[0] != likes[1]:
        other = f"like {likes[0]}, not {likes[1]}"
    raise UserError(
        f"Output {folder}",
        "a miniature of the same footage and settings",
        f"one {other}",
        "Name another folder with --output, or remove this one.",
    )


def summary(folder: Path) -> list[Row]:
    """What lies in a miniature."""
    from beam_pipelines.rejects_table import REJECTS_FILE, read_rejects

    marker = read_marker(folder)
    settings, groups = marker["settings"], marker["groups"]
    describe = _images if marker["like"] == "mcl-jci" else _clips
    first, levels = describe(folder, settings)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    noun = first[0]
    return [
        first,
        ("footage", count_text(len(set(groups.values())), "group") + f" of {noun} that share it"),
        *levels,
        ("rejects", notes(map(str, read_rejects(folder / REJECTS_FILE)[0]))),
        ("size", size_text(size)),
        ("viewers", f"SIMULATED, {settings['panel']['num_viewers']} of them: no person has judged"),
    ]


def _clips(folder: Path, settings: dict[str, Any]) -> tuple[Row, list[Row]]:
    import numpy as np

    from laser_dist.jnd.videoset_labels import read_videoset_labels

    resolution = f"{settings['width']}x{settings['height']}"
    sources = read_videoset_labels(folder, resolution).sources
    levels = np.array([[level.jnd for level in source.levels] for source in sources])
    clips = f"{count_text(len(sources), 'clip')} of {resolution}, {settings['num_frames']} frames"
    first = ("clips", f"{clips}, at {len(settings['qps']) + 1} QPs")
    return first, [_level_row(index, "QP", values) for index, values in enumerate(levels.T)]


def _images(folder: Path, settings: dict[str, Any]) -> tuple[Row, list[Row]]:
    import numpy as np

    from laser_dist.jnd.mcl_jci_labels import read_mcl_jci_labels

    sources = read_mcl_jci_labels(folder).sources
    levels = np.array([source.levels("viewers") for source in sources])
    images = f"{count_text(len(sources), 'image')} of {settings['width']}x{settings['height']}"
    first = ("images", f"{images}, at {len(settings['qfs'])} quality factors")
    rows: list[Row] = []
    for index in range(3):
        values = levels[:, index]
        name, text = _level_row(index, "QF", values[np.isfinite(values)])
        missing = np.mean([1 - len(x.samples[index]) / len(x.chains) for x in sources])
        rows.append((name, f"{text}; {missing:.1%} of the viewers have none"))
    return first, rows


def _level_row(index: int, scale: str, values: np.ndarray) -> Row:
    spread = f"standard deviation {values.std():.1f}"
    return f"JND{index + 1}", f"{scale} {values.mean():.1f}, {spread}"
