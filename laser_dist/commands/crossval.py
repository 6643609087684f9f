"""`laser-jnd crossval`: trains a predictor per fold, and evaluates all of them together."""

from __future__ import annotations

import argparse

from laser_dist import api
from laser_dist.commands import train
from laser_dist.commands.evaluate import print_results
from laser_dist.commands.options import add_dataset, whole_number
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.training_progress import TerminalFollower
from laser_dist.models.variants import VARIANTS
from laser_dist.storage.prepared_datasets import find_dataset
from laser_dist.training.config import from_dict

HELP = "train a predictor on each fold of a dataset, and evaluate them together"
EXAMPLE = """\
examples:
  laser-jnd crossval mj-lat --preset tiny --dataset runs/data --folds 4 --output runs/folds
  laser-jnd crossval mj-lat --dataset videoset_jnd/1080p --data-dir gs://bucket/data \\
    --folds 5 --output gs://bucket/runs/folds --workers 4:8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.set_defaults(usage_error=parser.error)
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("variant", choices=names, help="predictor to train")
    parser.add_argument(
        "--folds",
        type=whole_number(2),
        default=4,
        metavar="K",
        help="number of folds, which never split a group (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="PATH_OR_URL",
        help="folder or location in a bucket (gs://, s3://) for the results and a run of each fold,"
        " fold-1 to fold-K; unfinished runs with the same settings are resumed",
    )
    add_dataset(parser, "prepared dataset")
    train.add_levels(parser)
    train.add_config(parser)
    train.add_settings(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train what is missing, pool the predictions, and print the tables."""
    training = train.resolve(arguments)
    dataset = find_dataset(arguments.dataset, arguments.data_dir)
    terminal = Terminal()
    with terminal.progress() as show:
        results = api.cross_validate(
            training["variant"],
            dataset,
            arguments.output,
            num_folds=arguments.folds,
            config=from_dict(training),
            follower=TerminalFollower(terminal, show),
            show=show,
        )
    print_results(terminal, results, arguments.output)
