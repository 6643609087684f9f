"""`laser-jnd plan`: the quantizers of a clip's scenes, for other encoders to use."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from laser_dist.commands.clips import CODEC_NAMES, add_model, add_target, check_model
from laser_dist.commands.predict import is_prediction, predict_clips
from laser_dist.commands.terminal import Terminal
from laser_dist.encoding.handover import (
    FORMATS,
    WITH_CODEC,
    WITH_QPFILE,
    CrfPlan,
    qp_interval,
    qpfile,
    text_of,
)
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from laser_dist.encoding.encoders import EncoderSettings
    from laser_dist.encoding.plan import Plan

HELP = "plan the quantizer of each scene of a video, for other encoders"
EXAMPLE = """\
examples:
  ffmpeg -i clip.mp4 $(laser-jnd plan clip.mp4 --model mj-lat.onnx --for libx265) out.mkv
  x264 $(laser-jnd plan clip.mp4 --model mj-lat.onnx --for x264 --qpfile clip.qp) \\
      -o out.264 clip.mp4
  laser-jnd plan clip.mp4 --model mj-lat.onnx --for av1an --output clip.zones
  laser-jnd plan clip.mp4 --model mj-lat.onnx --for av1an --codec svtav1 --output clip.zones
  ab-av1 crf-search -i clip.mp4 $(laser-jnd plan clip.mp4 --model mj-lat.onnx --for ab-av1)
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("clip", metavar="CLIP", help="video")
    add_model(parser)
    parser.add_argument(
        "--for",
        required=True,
        choices=FORMATS,
        dest="form",
        help="options of the programs x264 and x265, of ffmpeg with libx264 or libx265, or of"
        " ab-av1 crf-search; or a zones or scenes file of Av1an",
    )
    add_target(parser)
    parser.add_argument(
        "--codec",
        choices=CODEC_NAMES,
        default="x264",
        help="encoder of Av1an or ab-av1; trial encodes find CRFs for x265 and svtav1, and for x264"
        " with --preset (default: %(default)s at constant QPs)",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="preset of the encoder (default: medium for x265, 8 for svtav1)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write (default: standard output)",
    )
    parser.add_argument(
        "--qpfile",
        type=Path,
        metavar="FILE",
        help="file to write the keyframes to, for --for x264 and x265",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def run(arguments: argparse.Namespace) -> None:
    """Predict a clip, and print its plan in the format of a tool."""
    from laser_dist.encoding.encoders import CRF, EncoderSettings
    from laser_dist.encoding.plan import plan_of
    from laser_dist.encoding.transcode import checked_facts
    from laser_dist.storage import write_text
    from laser_dist.storage.local_copies import naming_locations
    from laser_dist.storage.locations import is_url

    _check(arguments)
    settings = EncoderSettings(codec=arguments.codec, preset=arguments.preset)
    if settings.rate == CRF:
        checked_facts(Path(arguments.clip), settings, allow_hdr=True)
    if not is_url(arguments.model):
        check_model(Path(arguments.model))
    terminal = Terminal()
    with naming_locations(arguments.model):
        (result,) = predict_clips(
            terminal, [arguments.clip], arguments.model, sur=arguments.sur, scenes=True
        )
    if not is_prediction(result):
        raise UserError(result.message, hint=result.hint)
    plan = plan_of(result, arguments.target, margin=arguments.margin, constant=arguments.constant)
    for warning in result.warnings:
        logger.warning("%s: %s.", arguments.clip, warning)
    if plan.simulated:
        logger.warning("The model was trained with SIMULATED viewers.")
    crf_plan = None
    if settings.rate == CRF:
        crf_plan = _matched(terminal, Path(arguments.clip), plan, settings)
    if arguments.qpfile:
        write_text(arguments.qpfile, qpfile(plan))
    text = text_of(plan, arguments.form, str(arguments.qpfile), crf_plan=crf_plan)
    if arguments.output:
        write_text(arguments.output, text)
    else:
        print(text, end="")


def _matched(terminal: Terminal, clip: Path, plan: Plan, settings: EncoderSettings) -> CrfPlan:
    """Return the CRFs of another encoder that match a plan."""
    from laser_dist.encoding.encode import quantizers
    from laser_dist.encoding.encoders import CODECS
    from laser_dist.encoding.matching import codec_map, crf_at_qp

    with terminal.progress() as show:
        values, match = quantizers(
            clip, plan, settings, progress=lambda what, share: show(what, round(100 * share), 100)
        )
    assert match is not None  # at a CRF
    prior, coarsest = codec_map(settings.codec), CODECS[settings.codec].coarsest
    low, high = (crf_at_qp(qp, match, prior, coarsest) for qp in qp_interval(plan))
    return CrfPlan(
        settings=settings, crfs=tuple(value for _, value in values), interval=(low, high)
    )


def _check(arguments: argparse.Namespace) -> None:
    """Check what can be checked before the clip is read."""
    form, path = arguments.form, arguments.qpfile
    if form not in WITH_CODEC and (arguments.codec != "x264" or arguments.preset is not None):
        raise UserError(
            f"--for {form} has no use for --codec and --preset: it is for one encoder.",
            hint=f"Use --for {', '.join(WITH_CODEC)}.",
        )
    if form in WITH_QPFILE and path is None:
        raise UserError(
            f"--for {form} needs --qpfile: {form} reads keyframes from a file.",
            hint="Add --qpfile FILE.",
        )
    if form not in WITH_QPFILE and path is not None:
        raise UserError(f"--for {form} has no use for --qpfile.", hint="Remove --qpfile.")
    if path is not None and any(map(str.isspace, str(path))):
        raise UserError(
            f'The path "{path}" has a space, which would divide the options.',
            hint="Name another --qpfile.",
        )
    if form == "ab-av1" and arguments.margin is not None:
        raise UserError(
            "--for ab-av1 has no use for --margin: its search covers the interval of the level.",
            hint="Remove --margin.",
        )
    if path is not None and path == arguments.output:
        raise UserError("--output and --qpfile are the same file.", hint="Name another --qpfile.")
    for each in filter(None, (arguments.output, path)):
        if each.exists() and not arguments.overwrite:
            raise UserError(
                f"{each} exists already.", hint="Add --overwrite, or name another file."
            )
