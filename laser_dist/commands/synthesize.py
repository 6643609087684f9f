"""`laser-jnd synthesize`: create a small dataset from photographs and videos."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import add_seed, add_workers, whole_number
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.wording import count_text, notes, size_text

if TYPE_CHECKING:
    import numpy as np

    from beam_pipelines.rejects import Reject
    from beam_pipelines.synthetic.footage import Footage
    from beam_pipelines.synthetic.pipeline import Settings

logger = logging.getLogger(__name__)

HELP = "create a small dataset from photographs and videos, with simulated viewers"
EXAMPLE = """\
examples:
  laser-jnd synthesize --output runs/videoset
  laser-jnd synthesize --output runs/mine --videos ~/clips --qps 16,24,30,36,45
  laser-jnd synthesize --kind mcl-jci --output runs/mcl_jci
"""
Row = tuple[str, str | list[str]]
"""Name and value of the summary; a value may be a list of lines."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Defaults of one kind of synthetic dataset, known without importing its libraries.

    Attributes:
      output: default folder.
      num_sources: default number of sources.
      max_sources: largest number of sources that the dataset's file names allow.
      num_frames: frames per source.
    """

    output: Path
    num_sources: int
    max_sources: int
    num_frames: int


KINDS = {
    "videoset": Kind(
        output=Path("runs") / "videoset", num_sources=600, max_sources=999, num_frames=4
    ),
    "mcl-jci": Kind(output=Path("runs") / "mcl_jci", num_sources=96, max_sources=99, num_frames=1),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--kind",
        choices=list(KINDS),
        default="videoset",
        help="dataset to imitate: clips at VideoSet's QPs, or images at MCL-JCI's JPEG quality "
        "factors (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder to create (default: {_defaults('output')})",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder of photographs, used in addition to the bundled ones",
    )
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="folder of videos to cut clips from"
    )
    parser.add_argument(
        "--num-sources",
        type=whole_number(1, max(kind.max_sources for kind in KINDS.values())),
        metavar="N",
        help="number of clips or images, spread evenly over the footage "
        f"(default: {_defaults('num_sources')}; at most {_defaults('max_sources')})",
    )
    parser.add_argument(
        "--qps",
        type=parse_qps,
        metavar="QP,...",
        help="QPs to encode videoset clips at, in addition to the lossless 0 "
        "(default: all, 1 to 51)",
    )
    add_seed(parser, "the clips and the simulated viewers")
    add_workers(parser, "one per core, if memory allows")


def _defaults(name: str) -> str:
    """Return the value of each kind, such as "600, or 96 for mcl-jci"."""
    first, *others = ((kind, getattr(values, name)) for kind, values in KINDS.items())
    return ", or ".join([str(first[1]), *(f"{value} for {kind}" for kind, value in others)])


def run(arguments: argparse.Namespace) -> None:
    """Create the synthetic dataset, or reuse an identical one."""
    kind = KINDS[arguments.kind]
    check_options(arguments)
    output = arguments.output or kind.output
    from beam_pipelines.synthetic.pipeline import check_output

    check_output(output)
    footage, rejects = find_footage(arguments.photos, arguments.videos, num_frames=kind.num_frames)
    make_or_reuse(
        Terminal(),
        footage,
        settings_of(arguments),
        output,
        left_out=rejects,
        workers=arguments.workers,
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Check options that depend on the kind.

    Raises:
      UserError: `--qps` with images, or more sources than the dataset has names for.
    """
    kind = arguments.kind
    if kind == "mcl-jci" and arguments.qps is not None:
        raise UserError(
            "--qps does not apply to --kind mcl-jci, which encodes images at every quality factor.",
            hint="Remove --qps.",
        )
    highest = KINDS[kind].max_sources
    if arguments.num_sources is not None and arguments.num_sources > highest:
        raise UserError(
            f"--num-sources {arguments.num_sources} is too large: --kind {kind} supports at most "
            f"{highest} sources."
        )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings that the command line asks for."""
    num_sources = arguments.num_sources or KINDS[arguments.kind].num_sources
    if arguments.kind == "mcl-jci":
        from beam_pipelines.synthetic.mcl_jci import MclJciSettings

        return MclJciSettings(num_sources=num_sources, seed=arguments.seed)
    from beam_pipelines.synthetic.videoset import VideosetSettings

    qps = arguments.qps or parse_qps("all")
    return VideosetSettings(num_sources=num_sources, qps=qps, seed=arguments.seed)


def parse_qps(text: str) -> tuple[int, ...]:
    """Parse QPs from 1 to 51, sorted, from "16,20,24" or "all"."""
    if text == "all":
        return tuple(range(1, 52))
    try:
        qps = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        qps = (0,)
    if not 1 <= qps[0] <= qps[-1] <= 51:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither 'all' nor a list of QPs from 1 to 51 such as 16,20,24"
        )
    return qps


def find_footage(
    photos: Path | None, videos: Path | None, *, num_frames: int
) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    """Find the bundled photographs and the user's footage.

    Args:
      photos: folder of photographs.
      videos: folder of videos.
      num_frames: minimum length of a video.

    Returns:
      The footage, and a reject for each file that is not usable.

    Raises:
      UserError: a folder is missing or has no usable file.
    """
    from beam_pipelines.synthetic.footage import photographs_in, shipped_photographs, videos_in

    footage, rejects = shipped_photographs(), ()
    long_enough = partial(videos_in, min_frames=num_frames)
    for folder, find in ((photos, photographs_in), (videos, long_enough)):
        if folder is not None:
            found, not_found = find(folder)
            footage, rejects = (*footage, *found), (*rejects, *not_found)
    return footage, rejects


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
    """Create the synthetic dataset unless it exists already, and print a summary.

    Args:
      terminal: where to print.
      footage: photographs and videos.
      settings: settings of the dataset.
      folder: output folder.
      left_out: rejected files, for the table of rejects.
      workers: number of processes; None to choose it by cores and free memory.
      replace_other: replace a synthetic dataset of other settings.

    Raises:
      UserError: `folder` holds another synthetic dataset, or cannot be written.
    """
    from beam_pipelines.runner import local_options
    from beam_pipelines.synthetic.footage import draw_takes
    from beam_pipelines.synthetic.pipeline import marker_of, synthesize

    with terminal.progress() as show:
        show("looking at the footage")
        wanted = marker_of(draw_takes(footage, settings), settings)
        if _exists(folder, wanted, replace_other):
            logger.info("  Reused %s: same footage and settings.", folder)
        else:
            show(f"encoding {count_text(settings.num_sources, 'source')}")
            synthesize(
                footage,
                settings,
                folder,
                local_options(workers),
                left_out=left_out,
                on_progress=lambda num_finished: show(
                    "sources filmed, encoded and labeled", num_finished, settings.num_sources
                ),
            )
    terminal.pairs(summary(folder))


def _exists(folder: Path, wanted: dict[str, Any], replace_other: bool) -> bool:
    from laser_dist.simulation import MARKER_NAME

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
    """Load the marker of a synthetic dataset.

    Raises:
      UserError: the marker cannot be read.
    """
    from laser_dist.simulation import MARKER_NAME

    try:
        marker = json.loads((folder / MARKER_NAME).read_text())
        return {name: marker[name] for name in ("kind", "fingerprint", "settings", "groups")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / MARKER_NAME} does not describe a synthetic dataset "
            f"({type(error).__name__}: {error}).",
            hint="Remove that folder, or name another with --output.",
        ) from error


def check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that the markers of an existing and the requested dataset agree.

    Raises:
      UserError: they differ; the message names the settings that do.
    """
    if found["fingerprint"] == wanted["fingerprint"]:
        return
    old, new = (json.loads(json.dumps(marker["settings"])) for marker in (found, wanted))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    difference = "made with another " + (", ".join(differing) or "choice of footage")
    if found["kind"] != wanted["kind"]:
        difference = f"of kind {found['kind']}, not {wanted['kind']}"
    raise UserError(
        f"{folder} holds a synthetic dataset {difference}.",
        hint="Name another folder with --output, or remove this one.",
    )


def summary(folder: Path) -> list[Row]:
    """Summarize the content of a synthetic dataset."""
    from beam_pipelines.rejects import REJECTS_FILE, read_rejects

    marker = read_marker(folder)
    settings, groups = marker["settings"], marker["groups"]
    describe = _images if marker["kind"] == "mcl-jci" else _clips
    first, levels = describe(folder, settings)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [
        first,
        ("footage", count_text(len(set(groups.values())), "group") + f" of related {first[0]}"),
        *levels,
        ("rejects", notes(map(str, read_rejects(folder / REJECTS_FILE)[0]))),
        ("size", size_text(size)),
        ("viewers", f"{settings['panel']['num_viewers']} SIMULATED viewers, no people"),
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
    for index, values in enumerate(levels.T):
        name, text = _level_row(index, "QF", values[np.isfinite(values)])
        missing = np.mean([1 - len(x.samples[index]) / len(x.chains) for x in sources])
        rows.append((name, f"{text}; {missing:.1%} of the viewers did not reach it"))
    return first, rows


def _level_row(index: int, scale: str, values: np.ndarray) -> Row:
    spread = f"standard deviation {values.std():.1f}"
    return f"JND{index + 1}", f"{scale} {values.mean():.1f}, {spread}"
