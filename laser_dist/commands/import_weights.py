"""`laser-jnd import-weights`: convert the authors' published weights to a model file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laser_dist.commands.options import level_list, size
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.keras_import import import_keras

if TYPE_CHECKING:
    import keras

    from laser_dist.models.weight_files import WeightFile

HELP = "convert the authors' published weights to a model file"
EXAMPLE = """\
examples:
  laser-jnd import-weights --variant mj-lat MJLAT.h5 --output mj-lat.keras
  laser-jnd import-weights --variant lat LATJND1.h5 LATJND2.h5 LATJND3.h5 --output lat.keras
  laser-jnd import-weights --variant lat second.h5 --levels 2 --output lat2.keras
  laser-jnd import-weights --variant jnd1 JND1Reconstruction.h5 --output jnd1.keras

Download the files from https://zenodo.org/records/11080876
"""
VARIANTS = ("lat", "rec", "e2e-lat", "e2e-rec", "mj-lat", "mj-rec")
AUTOENCODERS = ("image", "jnd1", "jnd2", "jnd3")
PUBLISHED_SIZE = (640, 352)
SUFFIX = ".keras"
_LEVEL_IN_NAME = re.compile(r"JND([123])(?!\d)", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="weights (.h5); one file per level for a single-level variant",
    )
    parser.add_argument(
        "--variant",
        choices=(*VARIANTS, *AUTOENCODERS),
        required=True,
        help="content of the files: a predictor, or the reconstruction of raw frames (image) or of "
        "frames at a JND level",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar=f"MODEL{SUFFIX}", help="model file to write"
    )
    parser.add_argument(
        "--levels",
        type=level_list,
        metavar="L,L",
        help="JND level of each file of a single-level variant, such as 1,3 (default: from the"
        " file names, such as LATJND2.h5)",
    )
    parser.add_argument(
        "--frame-size",
        type=size,
        default=PUBLISHED_SIZE,
        metavar="WxH",
        help="frame size of the weights (default: the published"
        f" {PUBLISHED_SIZE[0]}x{PUBLISHED_SIZE[1]})",
    )


def run(arguments: argparse.Namespace) -> None:
    """Read the files, build their model and save it."""
    if arguments.output.suffix != SUFFIX:
        raise UserError(f"--output {arguments.output} must end in {SUFFIX}.")
    paths, levels = in_order(arguments.variant, arguments.files, arguments.levels)
    terminal = Terminal()
    with terminal.progress() as show:
        show("reading the weights")
        files = [read_file(path) for path in paths]  # before Keras is imported
        show("building the model")
        import_keras()
        from laser_dist.training.saving import save_model

        model = build(arguments.variant, files, levels, arguments.frame_size)
        save_model(model, arguments.output)
    pairs = [("model", str(arguments.output)), ("variant", arguments.variant)]
    if levels:
        pairs.append(("levels", ", ".join(f"JND{level}" for level in levels)))
    terminal.pairs([*pairs, ("parameters", f"{model.count_params():,}")])
    if levels:
        terminal.say(f"Next: laser-jnd predict CLIP --model {arguments.output}")


def in_order(
    variant: str, paths: Sequence[Path], given: Sequence[int] | None
) -> tuple[list[Path], tuple[int, ...]]:
    """Return the files by ascending level, and the levels that the model predicts.

    Args:
      variant: name of a predictor, or of an autoencoder, which predicts no level.
      paths: files in the order of the command line.
      given: level of each file; None to use the file names.

    Raises:
      UserError: there are too many files, or not exactly one distinct level for each.
    """
    from laser_dist.models.variants import variant_named

    if variant in AUTOENCODERS or variant_named(variant).num_levels > 1:
        if len(paths) > 1:
            raise UserError(f"{variant} has one weight file, but {len(paths)} are given.")
        if given is not None:
            raise UserError(
                f"--levels applies only to single-level variants, and {variant} is not one.",
                hint="Omit --levels.",
            )
        return list(paths), () if variant in AUTOENCODERS else (1, 2, 3)
    levels = [level_in(path) for path in paths] if given is None else list(given)
    if len(levels) != len(paths) or len(set(levels)) < len(levels):
        raise UserError(
            f"{len(paths)} weight files have the levels {', '.join(map(str, levels))}; each file"
            " needs its own.",
            hint="Name the level of each file, such as --levels 1,2,3.",
        )
    by_level = sorted(zip(levels, paths, strict=True))
    return [path for _, path in by_level], tuple(level for level, _ in by_level)


def level_in(path: Path) -> int:
    """Return the level in a file name.

    Raises:
      UserError: the name has no level, or several.
    """
    found = sorted(set(_LEVEL_IN_NAME.findall(path.stem)))
    if len(found) != 1:
        raise UserError(
            f"The file name {path.name} names {len(found) or 'no'} JND levels.",
            hint="Name the level, such as --levels 1.",
        )
    return int(found[0])


def read_file(path: Path) -> WeightFile:
    """Read one weight file.

    Raises:
      UserError: the file is missing, not a regular file, too large or not a complete weight file.
    """
    import h5py

    from laser_dist.models.weight_files import MAX_WEIGHT_BYTES, check_readable, read_weight_file
    from laser_dist.storage import open_regular

    hint = "Name a weight file (.h5)."
    try:
        with open_regular(path, max_bytes=MAX_WEIGHT_BYTES, hint=hint) as opened:
            check_readable(path)
            with h5py.File(opened, "r") as file:
                return read_weight_file(file, str(path))
    except OSError as error:
        raise UserError(
            f"{path} is not a complete HDF5 file: {error}.",
            hint="Download it again, or name another file.",
        ) from error


def build(
    variant: str, files: Sequence[WeightFile], levels: Sequence[int], frame_size: tuple[int, int]
) -> keras.Model:
    """Build the model of the files.

    Args:
      variant: variant of the files.
      files: by ascending level.
      levels: levels of a predictor.
      frame_size: width and height of the frames in pixels.
    """
    from laser_dist.models.published import published_autoencoder, published_predictor
    from laser_dist.models.variants import variant_named

    width, height = frame_size
    if variant in AUTOENCODERS:
        return published_autoencoder(files[0], variant, height=height, width=width)
    return published_predictor(variant_named(variant), files, levels, height=height, width=width)
