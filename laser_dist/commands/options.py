"""Options that several commands share."""

import argparse
from collections.abc import Callable


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers within bounds, for argparse.

    Args:
      lowest: accepted.
      highest: accepted; None for no bound.
    """
    rule = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest or (highest is not None and value > highest):
            raise argparse.ArgumentTypeError(f"expected a whole number, {rule}, got {text!r}")
        return value

    return number


def positive_number(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def share(text: str) -> float:
    """A share from 0 to 1, such as 0.05 or 5%, for argparse."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(
            f"expected a share from 0 to 1 or a percentage, got {text!r}"
        )
    return value


def inner_share(text: str) -> float:
    """A share between 0 and 1, neither of them itself, such as 0.9 or 90%, for argparse."""
    value = share(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}")
    return value


def size(text: str) -> tuple[int, int]:
    """(width, height) of "640x352", for argparse."""
    width, separator, height = text.partition("x")
    if not separator or not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected a size such as 640x352, got {text!r}")
    return int(width), int(height)


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """Declares `--seed`."""
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        default=0,
        metavar="S",
        help=f"of {what} (default: %(default)s)",
    )


def add_workers(parser: argparse.ArgumentParser, default: str) -> None:
    """Declares `--workers`, None where it is not given."""
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help=f"processes that share the work (default: {default})",
    )


def worker_range(text: str) -> tuple[int | None, int]:
    """(least, most) workers of "8", where the least is None, or "4:8", for argparse."""
    least, separator, most = text.rpartition(":")
    try:
        few, many = int(least) if separator else None, int(most)
    except ValueError:
        few, many = None, 0
    if many < 1 or (few is not None and not 1 <= few <= many):
        raise argparse.ArgumentTypeError(f"expected workers such as 8 or 4:8, got {text!r}")
    return few, many
