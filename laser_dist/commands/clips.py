"""The clips, models and targets that several commands take, and how they write times."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import is_zipfile

from laser_dist.commands.options import non_negative, ratio
from laser_dist.errors import UserError
from laser_dist.jnd.scale import LEVEL_SUR, scale_named
from laser_dist.keras_import import import_keras

if TYPE_CHECKING:
    from laser_dist.prediction.model import Model
    from laser_dist.prediction.predictor import Predictor

LEVEL_NAMES = ("jnd1", "jnd2", "jnd3")
CODEC_NAMES = ("x264", "x265", "svtav1")
# What `--recursive` takes for videos and images, whatever they turn out to be.
_VIDEO_SUFFIXES = (
    ".264", ".265", ".3gp", ".asf", ".avc", ".avi", ".dv", ".flv", ".h264", ".h265", ".hevc",
    ".ivf", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".obu", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
_IMAGE_SUFFIXES = (
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".jxl", ".pgm",
    ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare `--model`."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_URL",
        help="folder or URL of a finished run, or a model file (.keras, or exported: .onnx, .xml)",
    )


def add_sur(parser: argparse.ArgumentParser) -> None:
    """Declare `--sur`."""
    parser.add_argument(
        "--sur",
        type=ratio,
        default=LEVEL_SUR,
        metavar="R",
        help="satisfied-user ratio to target; values other than %(default)s need a model trained"
        " with head.spread=true (default: %(default)s)",
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Declare `--target`, `--sur`, `--margin` and `--constant`, from which a plan is made."""
    parser.add_argument(
        "--target",
        choices=LEVEL_NAMES,
        default=LEVEL_NAMES[0],
        help="JND level to encode at (default: %(default)s)",
    )
    add_sur(parser)
    add_margin(parser)
    parser.add_argument(
        "--constant",
        action="store_true",
        help="give all scenes the quantizer of the strictest one",
    )


def add_margin(parser: argparse.ArgumentParser) -> None:
    """Declare `--margin`."""
    parser.add_argument(
        "--margin",
        type=non_negative,
        metavar="QP",
        help="QP to subtract from the predicted levels (default: what leaves 10%% of clips coarser"
        " than their level, by the errors that the model was calibrated with; 1.57 for a model"
        " without)",
    )


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Declare `--codec`, `--preset`, `--encoder-options` and `--hdr`."""
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
        "--hdr",
        choices=("refuse", "allow"),
        default="refuse",
        help="refuse HDR, or encode it at the levels of SDR (default: %(default)s)",
    )


def add_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    """Declare `--format`: a table, a JSON document, or another of some formats."""
    parser.add_argument(
        "--format",
        choices=("table", "json", *formats),
        default="table",
        help="output (default: %(default)s)",
    )


def clips_of(words: Sequence[str], *, recursive: bool, images: bool = True) -> list[str]:
    """Return the paths that the arguments name, in order.

    Args:
      words: paths, and `@FILE` for a file with a path per line.
      recursive: whether a folder stands for the videos and images below it.
      images: whether it also stands for images.

    Raises:
      UserError: a list or folder cannot be read or names no clip, or a folder is not expected.
    """
    from laser_dist.storage import is_pattern, is_url, list_files, match_files, split

    found: list[str] = []
    for word in words:
        if word.startswith("@"):
            found += _listed(Path(word[1:]))
        # os.path takes a name of any length, unlike pathlib.
        elif is_pattern(word) and not os.path.lexists(word):
            if not (matched := match_files(word)):
                raise UserError(f"No file matches {word}.", hint="Check the pattern.")
            found += matched
        elif os.path.isdir(word) or (recursive and is_url(word) and not _is_media(split(word)[1])):
            if not recursive:
                raise UserError(f"{word} is a folder.", hint="Add --recursive.")
            suffixes = (*_VIDEO_SUFFIXES, *(_IMAGE_SUFFIXES if images else ()))
            files = list_files(word)
            media = [file.location for file in files if file.name.lower().endswith(suffixes)]
            if not media:
                what = "video or image" if images else "video"
                raise UserError(f"Folder {word} has no {what}.", hint="Name another one.")
            found += media
        else:
            found.append(word)
    return found


def check_model(model: Path) -> None:
    """Check a run or model file, as far as this takes no time.

    Raises:
      UserError: there is no finished run, or the file is not a model.
    """
    from laser_dist.prediction.load import EXPORTED_SUFFIXES
    from laser_dist.training.runs import load_run

    if not model.is_file():
        config = load_run(model).config
        scale_named(config["dataset"].get("scale"), of=f"run {model}")
    elif model.suffix not in EXPORTED_SUFFIXES and not is_zipfile(model):
        raise UserError(
            f"{model} is not a .keras model, or is damaged.",
            hint="Name a model file (.keras, .onnx or .xml).",
        )


@cache  # the pipeline of this machine loads it once more in this process
def loaded_predictor(model: str) -> Predictor:
    """Load a predictor for a process that predicts several clips at a time.

    Args:
      model: path or URL of a run or model file.
    """
    return open_model(model, num_threads=1).predictor


def open_model(model: str, *, isolate: bool = False, num_threads: int | None = None) -> Model:
    """Load the model of a path or URL; Keras, which takes seconds, only for a model of Keras."""
    from laser_dist.prediction.load import EXPORTED_SUFFIXES, load
    from laser_dist.storage import split

    if not split(model)[1].endswith(EXPORTED_SUFFIXES):  # a URL may have options at its end
        import_keras(gpus="shared")
    return load(model, isolate=isolate, num_threads=num_threads)


def clock_text(seconds: float | None) -> str:
    """Return a time in a clip, such as "1:05.20" or "1:00:05.20"; "end" for None."""
    if seconds is None:
        return "end"
    minutes, rest = divmod(round(seconds * 100), 6000)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{rest // 100:02}.{rest % 100:02}"


def _options(text: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in text.split(":")]
    if not all(name and equals for name, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE:NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The list {path} cannot be read.", hint="Name a text file with a path per line."
        ) from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"The list {path} is empty.", hint="Write a path per line into it.")
    return found


def _is_media(name: str) -> bool:
    return name.lower().endswith((*_VIDEO_SUFFIXES, *_IMAGE_SUFFIXES))
