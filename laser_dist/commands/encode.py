"""`laser-jnd encode`: encode a clip at a JND level."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from laser_dist.commands.options import non_negative, ratio
from laser_dist.commands.predict import LEVEL_NAMES, check_model, clock_text, open_model
from laser_dist.commands.terminal import Terminal
from laser_dist.jnd.scale import LEVEL_SUR
from laser_dist.wording import share_text, size_text

if TYPE_CHECKING:
    from laser_dist.encoding.encode import Encoded

HELP = "encode a clip at a JND level"
EXAMPLE = """\
examples:
  laser-jnd encode clip.mp4 --output small.mp4 --model mj-lat.onnx
  laser-jnd encode clip.mp4 --output small.mkv --model mj-lat.onnx --codec svtav1 --target jnd2
  laser-jnd encode clip.mp4 --output small.mp4 --model mj-lat.onnx --codec x265 --preset slow
"""
CODEC_NAMES = ("x264", "x265", "svtav1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("clip", type=Path, metavar="CLIP", help="video to encode")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file to write: .mp4, .mov, .mkv or .webm; it appears when it is complete",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_URL",
        help="folder or URL of a finished run, or a model file (.keras, or exported: .onnx, .xml)",
    )
    parser.add_argument(
        "--target",
        choices=LEVEL_NAMES,
        default="jnd1",
        help="level to encode at (default: %(default)s)",
    )
    parser.add_argument(
        "--sur",
        type=ratio,
        default=LEVEL_SUR,
        metavar="R",
        help="satisfied-user ratio to target; values other than %(default)s need a model trained"
        " with head.spread=true (default: %(default)s)",
    )
    parser.add_argument(
        "--margin",
        type=non_negative,
        metavar="QP",
        help="QP to subtract from the predicted levels (default: what leaves 10%% of clips coarser"
        " than their level, by the model's intervals; 1.57 for a model without intervals)",
    )
    parser.add_argument(
        "--constant",
        action="store_true",
        help="give all scenes the quantizer of the strictest one",
    )
    parser.add_argument(
        "--codec", choices=CODEC_NAMES, default="x264", help="encoder (default: %(default)s)"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="preset of the encoder (default: for x264, the settings that the levels were measured"
        " at; medium for x265, 8 for svtav1)",
    )
    parser.add_argument(
        "--encoder-options",
        type=_options,
        default={},
        metavar="NAME=VALUE:...",
        help="further options of the encoder, by its own names",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the result with the clip"
    )
    parser.add_argument(
        "--hdr",
        choices=("refuse", "allow"),
        default="refuse",
        help="refuse HDR, or encode it at the levels of SDR (default: %(default)s)",
    )
    parser.add_argument(
        "--even-if-coarser",
        action="store_true",
        help="encode a clip that is itself encoded at a QP that is not finer",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="output (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Encode the clip, and print the quantizers, the size and the quality."""
    from laser_dist.encoding.encode import Request, check_request, encode
    from laser_dist.encoding.encoders import EncoderSettings
    from laser_dist.storage.local_copies import naming_locations
    from laser_dist.storage.locations import is_url

    request = Request(
        level=arguments.target,
        sur=arguments.sur,
        margin=arguments.margin,
        constant=arguments.constant,
        settings=EncoderSettings(
            codec=arguments.codec, preset=arguments.preset, options=arguments.encoder_options
        ),
        verify=not arguments.no_verify,
        overwrite=arguments.overwrite,
        allow_hdr=arguments.hdr == "allow",
        even_if_coarser=arguments.even_if_coarser,
    )
    if not is_url(arguments.model):
        check_model(Path(arguments.model))
    check_request(arguments.clip, arguments.output, request)
    terminal = Terminal()
    with terminal.progress() as show, naming_locations(arguments.model):
        show("loading the model")
        model = open_model(arguments.model)
        encoded = encode(
            model, arguments.clip, arguments.output, request,
            progress=lambda what, share: show(what, round(100 * share), 100),
        )  # fmt: skip
    if arguments.format == "json":
        terminal.say(json.dumps(encoded.to_dict(), indent=2, allow_nan=False))
    else:
        say_encoded(terminal, encoded)


def say_encoded(terminal: Terminal, encoded: Encoded) -> None:
    """Print a row per scene, and what the file has become."""
    settings, plan, verified = encoded.settings, encoded.plan, encoded.verified
    name = settings.codec if settings.preset is None else f"{settings.codec} {settings.preset}"
    rows = []
    for index, (scene, (_, value)) in enumerate(zip(plan.scenes, encoded.values, strict=True)):
        row = [f"{clock_text(scene.start_s)} – {clock_text(scene.end_s)}", f"{scene.level:.1f}"]
        row.append(f"{value:g}")
        row += [f"{verified.scenes[index].xpsnr_db:.1f}"] if verified else []
        rows.append(row)
    header = ["scene", f"{plan.level.upper()} (QP)", f"{name} ({settings.rate})"]
    terminal.table(header + (["XPSNR (dB)"] if verified else []), [rows])
    terminal.say()
    terminal.say(
        f"Wrote {encoded.output}: {size_text(encoded.output_bytes)}, {encoded.bitrate_kbps:.0f}"
        f" kbit/s of video, {_saving_text(encoded.saving)}."
    )
    terminal.say(f"The levels are predicted ones less a margin of {plan.margin:.1f} QP.")
    if encoded.match is not None:
        match = encoded.match
        terminal.say(
            f"The CRF has the XPSNR of x264 at the QP: {match.target_db:.1f} dB in an excerpt,"
            f" {match.reached_db:.1f} dB in the last of {match.num_probes} trial encodes."
        )
    if verified:
        total = verified.total
        terminal.say(
            f"All {verified.num_frames} frames: PSNR {total.psnr_db:.1f} dB, SSIM"
            f" {total.ssim:.4f}, XPSNR {total.xpsnr_db:.1f} dB."
        )
    if encoded.result.left_out:
        terminal.say(f"note: not copied: {', '.join(encoded.result.left_out)}.")
    if encoded.prediction.warnings:
        terminal.say(f"note: {'; '.join(encoded.prediction.warnings)}.")
    if plan.simulated:
        terminal.say("The model was trained with SIMULATED viewers.")
    if encoded.ffmpeg_command:
        terminal.say(f"The same with FFmpeg: {encoded.ffmpeg_command}")


def _saving_text(saving: float) -> str:
    if saving < 0:
        return f"{share_text(-saving)} more than the clip"
    return f"{share_text(saving)} less than the clip"


def _options(text: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in text.split(":")]
    if not all(name and equals for name, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE:NAME=VALUE")
    return {name: value for name, _, value in pairs}
