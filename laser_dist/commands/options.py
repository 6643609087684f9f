"""Options that several commands share."""

import argparse
import math
from collections.abc import Callable


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers within bounds, for argparse.

    Args:
      lowest: smallest accepted number.
      highest: largest accepted number; None for no bound.
    """
    rule = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest or (highest is not None and value > highest):
            raise argparse.ArgumentTypeError(f"must be a whole number {rule}, not {text!r}")
        return value

    return number


def positive_number(text: str) -> float:
    """Parse a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def non_negative(text: str) -> float:
    """Parse a number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def rate(text: str) -> float:
    """Parse a rate from 0 to 1, such as 0.05 or 5%."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, or a percentage, not {text!r}")
    return value


def ratio(text: str) -> float:
    """Parse a ratio between 0 and 1, both excluded, such as 0.9 or 90%."""
    value = rate(text)
    if value in {0.0, 1.0}:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text!r}")
    return value


def size(text: str) -> tuple[int, int]:
    """Parse a frame size such as "640x352" to (width, height)."""
    width, separator, height = text.partition("x")
    if not separator or not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a size such as 640x352, not {text!r}")
    return int(width), int(height)


def level_list(text: str) -> tuple[int, ...]:
    """Parse JND levels such as "1,3" to distinct numbers from 1 to 3, in the order given."""
    levels = text.split(",")
    if len(set(levels)) < len(levels) or not set(levels) <= {"1", "2", "3"}:
        raise argparse.ArgumentTypeError(f"must be levels such as 1,2,3, not {text!r}")
    return tuple(map(int, levels))


def add_seed(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Declare `--seed`."""
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        default=0,
        metavar="S",
        help=f"random seed for {purpose} (default: %(default)s)",
    )


def add_workers(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare `--workers`, which is None if it is not given."""
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help=f"number of processes (default: {default})",
    )


def worker_range(text: str) -> tuple[int | None, int]:
    """Parse "4:8" to the (least, most) workers, or "8" to (None, 8)."""
    least, separator, most = text.rpartition(":")
    try:
        few, many = int(least) if separator else None, int(most)
    except ValueError:
        few, many = None, 0
    if many < 1 or (few is not None and not 1 <= few <= many):
        raise argparse.ArgumentTypeError(
            f"must be a number such as 8 or a range such as 4:8, not {text!r}"
        )
    return few, many


def add_dataset(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    """Declare `--dataset` and `--data-dir`, the arguments of `prepared_datasets.find_dataset`."""
    parser.add_argument(
        "--dataset",
        required=required,
        metavar="PATH_OR_URL",
        help=f"{what}: its folder, the --data-dir of a build if it holds only one dataset, or "
        "NAME/CONFIG[/VERSION] with --data-dir",
    )
    parser.add_argument(
        "--data-dir",
        metavar="PATH_OR_URL",
        help="folder or bucket (gs://, s3://) of prepared datasets; the newest version is used "
        "unless --dataset names one",
    )
