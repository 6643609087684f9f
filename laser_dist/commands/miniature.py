"""`laser-jnd miniature`: photographs and videos become a small VideoSet or MCL-JCI."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.miniature_folder import check_same, read_marker, summary
from laser_dist.commands.options import add_seed, add_workers, whole_number
from laser_dist.commands.quiet import quiet
from laser_dist.commands.wording import count_text, counting
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from beam_pipelines.rejects import Reject
    from beam_pipelines.synthetic.footage import Footage
    from beam_pipelines.synthetic.pipeline import Settings
    from laser_dist.commands.terminal import Terminal

HELP = "make a small VideoSet or MCL-JCI from photographs, with simulated viewers"
EXAMPLE = """\
examples:
  laser-jnd miniature --output runs/videoset
  laser-jnd miniature --output runs/mine --videos ~/clips --qps 16,24,30,36,45
  laser-jnd miniature --like mcl-jci --output runs/mcl_jci
"""


@dataclass(frozen=True, kw_only=True)
class Like:
    """What is known of a kind of miniature without the libraries that make it.

    Attributes:
      output: folder where none is named.
      num_sources: how many where it is not said.
      max_sources: as many as the dataset's names have numbers for.
      num_frames: of each source.
    """

    output: Path
    num_sources: int
    max_sources: int
    num_frames: int


LIKES = {
    "videoset": Like(
        output=Path("runs") / "videoset", num_sources=600, max_sources=999, num_frames=4
    ),
    "mcl-jci": Like(output=Path("runs") / "mcl_jci", num_sources=96, max_sources=99, num_frames=1),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--like",
        choices=list(LIKES),
        default="videoset",
        help="dataset to stand in for: VideoSet's clips and QPs, or MCL-JCI's images and JPEG "
        "quality factors (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder to make (default: {_of_each('output')})",
    )
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="photographs to add to the ones that ship"
    )
    parser.add_argument("--videos", type=Path, metavar="DIR", help="videos to add")
    parser.add_argument(
        "--num-sources",
        type=whole_number(1, max(like.max_sources for like in LIKES.values())),
        metavar="N",
        help="clips or images to make, spread evenly over the footage "
        f"(default: {_of_each('num_sources')}; at most {_of_each('max_sources')})",
    )
    parser.add_argument(
        "--qps",
        type=parse_qps,
        metavar="QP,...",
        help="of videoset: QPs to code at beside the lossless 0 (default: all, 1 to 51)",
    )
    add_seed(parser, "takes, viewers and their trials")
    add_workers(parser, "one per core")


def _of_each(name: str) -> str:
    """A kind's default, of the first kind and of the others: "600, or 99 like mcl-jci"."""
    first, *others = ((like, getattr(known, name)) for like, known in LIKES.items())
    return ", or ".join([str(first[1]), *(f"{value} like {like}" for like, value in others)])


def run(arguments: argparse.Namespace) -> None:
    """Makes the miniature, or finds it made."""
    like = LIKES[arguments.like]
    check_options(arguments)
    output = arguments.output or like.output
    check_output(output)
    footage, rejects = find_footage(arguments.photos, arguments.videos, num_frames=like.num_frames)
    with quiet(output.with_name(f"{output.name}.log"), debug=arguments.debug) as terminal:
        make_or_reuse(
            terminal,
            footage,
            settings_of(arguments),
            output,
            left_out=rejects,
            workers=arguments.workers,
        )


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses what the kind that is asked for does not have.

    Raises:
      UserError: QPs of JPEGs, or more sources than the dataset has names for.
    """
    if arguments.like == "mcl-jci" and arguments.qps is not None:
        raise UserError(
            "Option --qps",
            "--like videoset",
            "--like mcl-jci, whose images are coded at every quality factor",
            "Leave it out.",
        )
    highest = LIKES[arguments.like].max_sources
    if arguments.num_sources is not None and arguments.num_sources > highest:
        raise UserError(
            "Option --num-sources",
            f"1 to {highest} with --like {arguments.like}",
            str(arguments.num_sources),
            "Ask for fewer.",
        )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings that a command line asks for."""
    num_sources = arguments.num_sources or LIKES[arguments.like].num_sources
    if arguments.like == "mcl-jci":
        from beam_pipelines.synthetic.mcl_jci import MclJciSettings

        return MclJciSettings(num_sources=num_sources, seed=arguments.seed)
    from beam_pipelines.synthetic.videoset import VideosetSettings

    qps = arguments.qps or parse_qps("all")
    return VideosetSettings(num_sources=num_sources, qps=qps, seed=arguments.seed)


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
    photos: Path | None, videos: Path | None, *, num_frames: int
) -> tuple[tuple[Footage, ...], tuple[Reject, ...]]:
    """The photographs that ship and what lies in the user's folders, and files that are neither.

    Args:
      photos: folder of photographs.
      videos: folder of videos.
      num_frames: a video needs at least.

    Raises:
      UserError: a folder that is not there, or holds nothing that can be used.
    """
    from beam_pipelines.synthetic.footage import photographs_in, shipped_photographs, videos_in

    footage, rejects = shipped_photographs(), ()
    long_enough = partial(videos_in, min_frames=num_frames)
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
    from laser_dist.simulation import MARKER_NAME

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
    from beam_pipelines.progress import watch_progress
    from beam_pipelines.runner import local_options
    from beam_pipelines.synthetic.pipeline import draw_takes, make_miniature, marker_of

    with terminal.live_line() as show:
        show("looking at the footage")
        wanted = marker_of(draw_takes(footage, settings), settings)
        if _is_made(folder, wanted, replace_other):
            terminal.say(f"  Reused: {folder} is there, made of the same footage and settings.")
        else:
            show(f"coding {count_text(settings.num_sources, 'source')}")
            report = counting(show, "sources filmed, coded and judged")
            with watch_progress(
                lambda: settings.num_finished(folder), settings.num_sources, report
            ):
                options = local_options(workers)
                make_miniature(footage, settings, folder, options, left_out=left_out)
    terminal.facts(summary(folder))


def _is_made(folder: Path, wanted: dict[str, Any], replace_other: bool) -> bool:
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
