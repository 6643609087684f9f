"""`laser-jnd ladder`: renditions of a clip at JND levels, for streaming."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laser_dist.commands.clips import (
    add_encoder,
    add_format,
    add_margin,
    add_sur,
    check_model,
    open_model,
)
from laser_dist.commands.options import level_list, positive_number, whole_number
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.wording import NO_VALUE, count_text, share_text, size_text

if TYPE_CHECKING:
    from laser_dist.encoding.streaming import Ladder
    from laser_dist.prediction.predict import ClipPrediction

HELP = "encode a clip at several heights and JND levels, for HLS and DASH players"
EXAMPLE = """\
examples:
  laser-jnd ladder clip.mp4 --output stream --model mj-lat.onnx
  laser-jnd ladder clip.mp4 --output stream --model 1080=big.onnx --model 540=small.onnx \\
      --heights 1080,540 --levels 1,2 --max-bitrate 8000
"""
_OF_HEIGHT = re.compile(r"(\d+)=(.+)", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("clip", type=Path, metavar="CLIP", help="video")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder to write, new or empty. It appears when it is complete",
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[HEIGHT=]PATH_OR_URL",
        help="model, as for encode; with HEIGHT=, for renditions of that many rows. Repeat the"
        " option for several heights, as levels hold for the height of the labels",
    )
    parser.add_argument(
        "--heights",
        type=_heights,
        metavar="ROWS,...",
        help="heights of the renditions in pixels (default: those of 1080, 720, 540 and 360 that"
        " are not above the clip's, else the clip's)",
    )
    parser.add_argument(
        "--levels",
        type=level_list,
        metavar="LEVELS",
        help="JND levels to encode at, such as 1,3 (default: all that the model predicts)",
    )
    add_sur(parser)
    add_margin(parser)
    for end, default in (("min", 0.0), ("max", math.inf)):
        parser.add_argument(
            f"--{end}-bitrate",
            type=positive_number,
            default=default,
            metavar="KBPS",
            help=f"{end}imum of the mean bit rate of the video in kbit/s (default: none)",
        )
    parser.add_argument(
        "--min-rungs",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="minimum number of renditions, if there are as many with other bit rates: some then"
        " differ by less than a JND (default: %(default)s)",
    )
    parser.add_argument(
        "--max-rungs",
        type=whole_number(1),
        metavar="N",
        help="maximum number of renditions (default: none)",
    )
    parser.add_argument(
        "--segment-s",
        type=positive_number,
        default=4.0,
        metavar="S",
        help="length of a segment in seconds (default: %(default)s)",
    )
    add_encoder(parser)
    add_format(parser)


def run(arguments: argparse.Namespace) -> None:
    """Build the ladder of a clip, and print why each rung is kept or dropped."""
    from laser_dist.encoding.encoders import EncoderSettings
    from laser_dist.encoding.ladder import Limits
    from laser_dist.encoding.streaming import LadderRequest, build_ladder, check_ladder
    from laser_dist.storage.local_copies import naming_locations
    from laser_dist.storage.locations import is_url

    if arguments.max_rungs is not None and arguments.max_rungs < arguments.min_rungs:
        raise UserError(
            f"--min-rungs {arguments.min_rungs} is above --max-rungs {arguments.max_rungs}.",
            hint="Lower --min-rungs or raise --max-rungs.",
        )
    request = LadderRequest(
        levels=arguments.levels,
        margin=arguments.margin,
        limits=Limits(
            min_kbps=arguments.min_bitrate,
            max_kbps=arguments.max_bitrate,
            min_rungs=arguments.min_rungs,
            max_rungs=arguments.max_rungs,
        ),
        segment_s=arguments.segment_s,
        settings=EncoderSettings(
            codec=arguments.codec, preset=arguments.preset, options=arguments.encoder_options
        ),
        allow_hdr=arguments.hdr == "allow",
    )
    heights = check_ladder(arguments.clip, arguments.output, arguments.heights, request)
    models = models_of(arguments.model, heights)
    for model in set(models.values()):
        if not is_url(model):
            check_model(Path(model))
    terminal = Terminal()
    with terminal.progress() as show, naming_locations(*models.values()):
        found: dict[str, ClipPrediction] = {}
        for model in dict.fromkeys(models.values()):
            show(f"predicting with {model}")
            found[model] = open_model(model).predict(arguments.clip, sur=arguments.sur, scenes=True)
        ladder = build_ladder(
            arguments.clip,
            arguments.output,
            {height: found[model] for height, model in models.items()},
            request,
            progress=lambda what, share: show(what, round(100 * share), 100),
        )
    if arguments.format == "json":
        terminal.say_json(ladder.to_dict())
    else:
        say_ladder(terminal, ladder, arguments.output)


def models_of(words: Sequence[str], heights: Sequence[int]) -> dict[int, str]:
    """Return the model of each height.

    Args:
      words: a location each, or `HEIGHT=LOCATION`.
      heights: rows of the renditions.

    Raises:
      UserError: a height has no model or two, or a model has no rendition.
    """
    found: dict[int | None, str] = {}
    for word in words:
        match = _OF_HEIGHT.fullmatch(word)
        height = int(match[1]) if match else None
        if height in found:
            which = "all heights" if height is None else f"{height} rows"
            raise UserError(
                f"--model names two models for {which}.", hint="Write --model HEIGHT=PATH_OR_URL."
            )
        found[height] = match[2] if match else word
    if left := [height for height in found if height is not None and height not in heights]:
        raise UserError(
            f"--model names a model for {left[0]} rows, and no rendition has them.",
            hint=f"The heights are {', '.join(map(str, heights))}; see --heights.",
        )
    if missing := [height for height in heights if height not in found and None not in found]:
        raise UserError(
            f"There is no model for {', '.join(map(str, missing))} rows.",
            hint=f"Add --model {missing[0]}=PATH_OR_URL, or name fewer --heights.",
        )
    return {height: found.get(height) or found[None] for height in heights}


def say_ladder(terminal: Terminal, ladder: Ladder, output: Path) -> None:
    """Print a row per rung, and what was written."""
    rows = [
        [
            each.candidate.name,
            _range(ladder.values.get(each.candidate.name) or each.candidate.qps),
            NO_VALUE if each.bitrate_kbps is None else f"{each.bitrate_kbps:.0f}",
            NO_VALUE if each.share is None else share_text(each.share),
            "kept" if each.dropped is None else each.dropped,
        ]
        for each in ladder.rungs
    ]
    settings = ladder.request.settings
    header = ["rung", settings.rate, "kbit/s", "viewers who see", ""]
    terminal.table(header, [rows])
    terminal.say()
    kept = sum(rung.dropped is None for rung in ladder.rungs)
    terminal.say(
        f"Wrote {output}: {count_text(kept, 'rendition')}, {size_text(ladder.num_bytes)}, in"
        " master.m3u8 (HLS) and manifest.mpd (DASH)."
    )
    terminal.say("Viewers see a difference from the rung above. None has compared heights.")
    if converted := [str(each) for each in ladder.sounds if not each.is_copied]:
        terminal.say(f"note: converted to AAC: {', '.join(converted)}.")
    if ladder.left_out:
        terminal.say(f"note: not copied: {', '.join(ladder.left_out)}.")
    if ladder.warnings:
        terminal.say(f"note: {'; '.join(ladder.warnings)}.")
    if ladder.simulated:
        terminal.say("The model was trained with SIMULATED viewers.")


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):g}", f"{max(values):g}"
    return low if low == high else f"{low}–{high}"


def _heights(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(set(parts)) < len(parts) or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"must be heights such as 1080,720, not {text!r}")
    return tuple(map(int, parts))
