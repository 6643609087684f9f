"""`laser-jnd import-weights`: the authors' published weights as a model of ours."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laser_dist.commands.options import size
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError

if TYPE_CHECKING:
    import keras

    from laser_dist.models.weight_files import WeightFile

HELP = "turn the authors' published weights into a model"
EXAMPLE = """\
examples:
  laser-jnd import-weights --variant mj-lat MJLAT.h5 --output mj-lat.keras
  laser-jnd import-weights --variant lat LATJND1.h5 LATJND2.h5 LATJND3.h5 --output lat.keras
  laser-jnd import-weights --variant lat second.h5 --levels 2 --output lat2.keras
  laser-jnd import-weights --variant jnd1 JND1Reconstruction.h5 --output jnd1.keras

The files are to be had from the authors: zenodo.org, record 11080876.
"""
VARIANTS = ("lat", "rec", "e2e-lat", "e2e-rec", "mj-lat", "mj-rec")
AUTOENCODERS = ("image", "jnd1", "jnd2", "jnd3")
PUBLISHED_SIZE = (640, 352)
SUFFIX = ".keras"
_LEVEL_IN_NAME = re.compile(r"JND([123])(?!\d)", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="weights (.h5); of a single-level variant a file for each level",
    )
    parser.add_argument(
        "--variant",
        choices=(*VARIANTS, *AUTOENCODERS),
        required=True,
        help="what the files hold: a predictor, or the reconstruction of raw frames (image) or of "
        "frames at a JND level",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar=f"MODEL{SUFFIX}", help="the model to write"
    )
    parser.add_argument(
        "--levels",
        type=int,
        nargs="+",
        choices=(1, 2, 3),
        metavar="LEVEL",
        help="of a single-level variant: which JND each file predicts (default: as the files' "
        "names say, such as LATJND2.h5)",
    )
    parser.add_argument(
        "--size",
        type=size,
        default=PUBLISHED_SIZE,
        metavar="WxH",
        help="of the frames that the weights take (default: the published "
        f"{PUBLISHED_SIZE[0]}x{PUBLISHED_SIZE[1]})",
    )


def run(arguments: argparse.Namespace) -> None:
    """Reads the files, builds their model and saves it."""
    if arguments.output.suffix != SUFFIX:
        raise UserError(
            "Option --output", f"a name ending in {SUFFIX}", str(arguments.output), "Rename it."
        )
    paths, levels = in_order(arguments.variant, arguments.files, arguments.levels)
    terminal = Terminal()
    with terminal.progress() as show:
        show("reading the weights")
        files = [read_file(path) for path in paths]  # before anything heavy is loaded
        show("building the model")
        from laser_dist.training.saving import save_whole

        model = build(arguments.variant, files, levels, arguments.size)
        save_whole(model, arguments.output)
    terminal.pairs(
        [
            ("model", str(arguments.output)),
            ("variant", arguments.variant),
            *([("levels", ", ".join(f"JND{level}" for level in levels))] if levels else []),
            ("parameters", f"{model.count_params():,}"),
        ]
    )
    if levels:
        terminal.say(f"Next: laser-jnd predict CLIP --model {arguments.output}")


def in_order(
    variant: str, paths: Sequence[Path], given: Sequence[int] | None
) -> tuple[list[Path], tuple[int, ...]]:
    """The files by ascending level, and the levels that the model will predict.

    Args:
      variant: a predictor's name, or an autoencoder's, which predicts no level.
      paths: as named.
      given: the level of each, None where their names tell.

    Raises:
      UserError: more files than the variant has, or not exactly one level for each.
    """
    from laser_dist.models.variants import variant_named

    if variant in AUTOENCODERS or variant_named(variant).num_levels > 1:
        if len(paths) > 1:
            raise UserError(
                f"Weights of {variant}", "one file", str(len(paths)), "Name one at a time."
            )
        if given is not None:
            raise UserError("Option --levels", "a single-level variant", variant, "Leave it out.")
        return list(paths), () if variant in AUTOENCODERS else (1, 2, 3)
    levels = [level_in(path) for path in paths] if given is None else list(given)
    if len(levels) != len(paths) or len(set(levels)) < len(levels):
        raise UserError(
            f"Weights of {variant}",
            "one level for each file, each another",
            f"{len(paths)} files and the levels {', '.join(map(str, levels))}",
            "Name each file's level, such as --levels 1 2 3.",
        )
    by_level = sorted(zip(levels, paths, strict=True))
    return [path for _, path in by_level], tuple(level for level, _ in by_level)


def level_in(path: Path) -> int:
    """The level that a file's name says.

    Raises:
      UserError: it says none, or several.
    """
    found = sorted(set(_LEVEL_IN_NAME.findall(path.stem)))
    if len(found) != 1:
        raise UserError(
            f"Weights {path}",
            "a name with JND1, JND2 or JND3 in it",
            " and ".join(f"JND{level}" for level in found) or "none of them",
            "Say which level it is, such as --levels 1.",
        )
    return int(found[0])


def read_file(path: Path) -> WeightFile:
    """One weight file.

    Raises:
      UserError: no such file, or not a whole one.
    """
    import h5py

    from laser_dist.models.weight_files import read_weight_file

    try:
        with h5py.File(path, "r") as file:
            return read_weight_file(file, str(path))
    except OSError as error:
        raise UserError(
            f"Weights {path}",
            "a whole HDF5 file (.h5)",
            str(error) if path.is_file() else "no such file",
            "Download it again, or name another.",
        ) from error


def build(
    variant: str, files: Sequence[WeightFile], levels: Sequence[int], size: tuple[int, int]
) -> keras.Model:
    """The model of the files.

    Args:
      variant: of the files.
      files: by ascending level.
      levels: of a predictor.
      size: width and height of the frames in pixels.
    """
    from laser_dist.models.published import published_autoencoder, published_predictor
    from laser_dist.models.variants import variant_named

    width, height = size
    if variant in AUTOENCODERS:
        return published_autoencoder(files[0], variant, height=height, width=width)
    return published_predictor(variant_named(variant), files, levels, height=height, width=width)
