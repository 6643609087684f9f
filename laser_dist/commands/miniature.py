"""`laser-jnd miniature`: photographs and videos become a small VideoSet."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import add_seed, add_workers, whole_number
from laser_dist.commands.quiet import quiet
from laser_dist.commands.wording import count_text, counting, notes, size_text
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from beam_pipelines.miniature import Settings
    from beam_pipelines.rejects import Reject
    from beam_pipelines.sources import Footage
    from laser_dist.commands.terminal import Terminal

HELP = "make a small VideoSet from photographs and videos, with simulated viewers"
EXAMPLE = """\
examples:
  laser-jnd miniature --output runs/videoset
  laser-jnd miniature --output runs/mine --videos ~/clips --qps 16,24,30,36,45
"""
NUM_SOURCES = 600
NUM_FRAMES = 4  # of each clip
MAX_SOURCES = 999  # VideoSet's names have three digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs") / "videoset",
        metavar="DIR",
        help="folder to make (default: %(default)s)",
    )
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="photographs to add to the ones that ship"
    )
    parser.add_argument("--videos", type=Path, metavar="DIR", help="videos to add")
    parser.add_argument(
        "--num-sources",
        type=whole_number(1, MAX_SOURCES),
        default=NUM_SOURCES,
        metavar="N",
        help="clips to make, spread evenly over the footage (default: %(default)s)",
    )
    parser.add_argument(
        "--qps",
        type=parse_qps,
        default="all",
        metavar="QP,...",
        help="QPs to code at beside the lossless 0 (default: all, 1 to 51)",
    )
    add_seed(parser, "takes, viewers and their trials")
    add_workers(parser, "one per core")


def run(arguments: argparse.Namespace) -> None:
    """Makes the miniature, or finds it made."""
    check_output(arguments.output)
    footage, rejects = find_footage(arguments.photos, arguments.videos)
    log_path = arguments.output.with_name(f"{arguments.output.name}.log")
    with quiet(log_path, debug=arguments.debug) as terminal:
        from beam_pipelines.miniature_videoset import VideosetSettings

        settings = VideosetSettings(
            num_sources=arguments.num_sources, qps=arguments.qps, seed=arguments.seed
        )
        make_or_reuse(
            terminal,
            footage,
            settings,
            arguments.output,
            left_out=rejects,
            workers=arguments.workers,
        )


def parse_qps(text: str) -> tuple[int, ...]:
    """QPs from 1 to 51, ascending, from "16,20,24" or "all"."""
    if text == "all":
        return tuple(range(1, 52))
    try:
        qps = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        qps = (0,)
    if not 1 <= qps[0] <= qps[-1] <= 51:
        raise argparse.ArgumentTypeError(
            f"expected 'all' or QPs from 1 to 51 such as 16,20,24, got {text!r}"
        )
    return qps


def find_footage(
    photos: Path | None, videos: Path | None
) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    """The photographs that ship and what lies in the user's folders, and files that are neither.

    Raises:
      UserError: a folder that is not there, or holds nothing that can be used.
    """
    from beam_pipelines.sources import photographs_in, shipped_photographs, videos_in

    footage, rejects = shipped_photographs(), ()
    long_enough = partial(videos_in, min_frames=NUM_FRAMES)
    for folder, find in ((photos, photographs_in), (videos, long_enough)):
        if folder is not None:
            found, not_found = find(folder)
            footage, rejects = (*footage, *found), (*rejects, *not_found)
    return footage, rejects


def check_output(folder: Path) -> None:
    """Refuses to make a miniature over something else.

    Raises:
      UserError: the place is taken by anything but a miniature or an empty folder.
    """
    from laser_dist.jnd.layout import MARKER_NAME

    if not folder.exists() or (folder / MARKER_NAME).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        got = "a folder with other things in it" if folder.is_dir() else "a file"
        raise UserError(
            f"Output {folder}", "a new folder, or a miniature", got, "Name another with --output."
        )


def make_or_reuse(
    terminal: Terminal,
    footage: Sequence[Footage],
    settings: Settings,
    folder: Path,
    *,
    left_out: Sequence[Reject] = (),
    workers: int | None = None,
    replace_other: bool = False,
) -> None:
    """Makes the miniature unless the same one lies there, and tells what there is.

    Args:
      terminal: to speak to.
      footage: photographs and videos.
      settings: of the miniature.
      folder: to make.
      left_out: files that were no footage, for the table of rejects.
      workers: processes; one per core if None.
      replace_other: make it anew if another miniature lies there.

    Raises:
      UserError: another miniature lies there, or the place cannot be written.
    """
    from beam_pipelines.miniature import draw_takes, make_miniature, marker_of
    from beam_pipelines.progress import finished_clips, watch_progress
    from beam_pipelines.runner import local_options

    with terminal.live_line() as show:
        show("looking at the footage")
        wanted = marker_of(draw_takes(footage, settings), settings)
        if _is_made(folder, wanted, replace_other):
            terminal.say(f"  Reused: {folder} is there, made of the same footage and settings.")
        else:
            show(f"coding {count_text(settings.num_sources, 'clip')}")
            report = counting(show, "clips filmed, coded and judged")
            with watch_progress(lambda: finished_clips(folder), settings.num_sources, report):
                options = local_options(workers)
                make_miniature(footage, settings, folder, options, left_out=left_out)
    terminal.facts(summary(folder))


def _is_made(folder: Path, wanted: dict[str, Any], replace_other: bool) -> bool:
    from laser_dist.jnd.layout import MARKER_NAME

    if not (folder / MARKER_NAME).is_file():
        return False
    try:
        check_same(folder, read_marker(folder), wanted)
    except UserError:
        if replace_other:
            return False
        raise
    return True


def read_marker(folder: Path) -> dict[str, Any]:
    """What a miniature says of itself.

    Raises:
      UserError: the marker cannot be read.
    """
    from laser_dist.jnd.layout import MARKER_NAME

    try:
        marker = json.loads((folder / MARKER_NAME).read_text())
        return {name: marker[name] for name in ("fingerprint", "settings", "groups")}
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
    old, new = (json.loads(json.dumps(marker["settings"])) for marker in (found, wanted))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    raise UserError(
        f"Output {folder}",
        "a miniature of the same footage and settings",
        "one with another " + (", ".join(differing) or "choice of footage"),
        "Name another folder with --output, or remove this one.",
    )


def summary(folder: Path) -> list[tuple[str, str]]:
    """What lies in a miniature: (name, value) for people."""
    import numpy as np

    from beam_pipelines.rejects_table import REJECTS_FILE, read_rejects
    from laser_dist.jnd.labels import read_videoset_labels

    marker = read_marker(folder)
    settings, groups = marker["settings"], marker["groups"]
    resolution = f"{settings['width']}x{settings['height']}"
    sources = read_videoset_labels(folder, resolution).sources
    levels = np.array([[level.jnd for level in source.levels] for source in sources])
    size = sum(path.stat().st_size for path in folder.rglob("*.264"))
    clips = f"{count_text(len(sources), 'clip')} of {resolution}, {settings['num_frames']} frames"
    return [
        ("clips", f"{clips}, at {len(settings['qps']) + 1} QPs"),
        ("footage", count_text(len(set(groups.values())), "group") + " of clips that share it"),
        *(
            (f"JND{index + 1}", f"QP {values.mean():.1f}, standard deviation {values.std():.1f}")
            for index, values in enumerate(levels.T)
        ),
        ("rejects", notes(map(str, read_rejects(folder / REJECTS_FILE)[0]))),
        ("size", size_text(size)),
        ("viewers", f"SIMULATED, {settings['panel']['num_viewers']} of them: no person has judged"),
    ]
