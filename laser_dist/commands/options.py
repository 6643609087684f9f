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
