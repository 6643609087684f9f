"""`laser-jnd settings`: the training settings that `--set` can change."""

from __future__ import annotations

import argparse
import textwrap

from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError, nearest

HELP = "list the training settings with their types, defaults and meanings"
EXAMPLE = """\
examples:
  laser-jnd settings
  laser-jnd settings heads.epochs
  laser-jnd settings cluster
"""
MAX_WIDTH = 100  # columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "filter",
        nargs="?",
        default="",
        metavar="FILTER",
        help="show only settings whose path contains FILTER",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the settings whose path contains the filter.

    Raises:
      UserError: no path does.
    """
    from laser_dist.training.config import describe_settings

    settings = describe_settings()
    found = [each for each in settings if arguments.filter in each.path]
    if not found:
        raise UserError(
            f'No setting has "{arguments.filter}" in its path.',
            hint=nearest(arguments.filter, (each.path for each in settings)),
        )
    terminal = Terminal()
    for each in found:
        terminal.say(f"{each.path}  ({each.type})", style="bold")
        defaults = ", ".join(f"{preset} {value}" for preset, value in each.defaults.items())
        for text in (each.meaning, f"Default: {defaults}"):
            width = min(terminal.width, MAX_WIDTH)
            for line in textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  "):
                terminal.say(line)
