"""`laser-jnd crossval`: trains a predictor per fold, and evaluates all of them together."""

from __future__ import annotations

import argparse
from pathlib import Path

from laser_dist.commands import train
from laser_dist.commands.evaluate import print_results
from laser_dist.commands.locations import add_dataset, find_dataset
from laser_dist.commands.options import whole_number
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.training_run import train_runs
from laser_dist.errors import UserError
from laser_dist.keras_import import import_keras
from laser_dist.models.variants import VARIANTS

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
    from laser_dist.jnd.splits import cross_validation
    from laser_dist.storage import join
    from laser_dist.storage.local_copies import local_dataset, local_run, naming_locations
    from laser_dist.training.examples.records import read_groups
    from laser_dist.training.runs import read_dataset_card, start_run

    training = train.resolve(arguments)
    dataset = find_dataset(arguments.dataset, arguments.data_dir)
    groups = read_groups(dataset)
    kept = "groups"
    if read_dataset_card(dataset)["split_by"] == "source":  # folds share groups, like the splits
        groups, kept = {source_id: source_id for source_id in groups}, "sources"
    try:
        splits = cross_validation(groups, arguments.folds)
    except ValueError as error:
        raise UserError(
            f"{dataset} has too few {kept} for {arguments.folds} folds:"
            f" {len(set(groups.values()))}.",
            hint=f"Use fewer folds (--folds), or build a dataset with more {kept}.",
        ) from error
    terminal, output = Terminal(), arguments.output
    stores = [train.run_store(join(output, f"fold-{fold + 1}")) for fold in range(len(splits))]
    runs = [
        (start_run(store, training, dataset, own), store)
        for store, own in zip(stores, splits, strict=True)
    ]
    train_runs(terminal, runs)
    locations = [store.location for store in stores]
    with terminal.progress() as show, naming_locations(*locations, dataset):
        dirs = {location: local_run(location, show) for location in locations}
        dataset_dir = local_dataset(dataset, ("train", "validation", "test"), show)
        show("Predicting the sources of each fold")
        import_keras(gpus="shared")
        from laser_dist.evaluation.evaluate import evaluate_folds

        results = evaluate_folds(dataset_dir, dirs, output, run=output)
    for store in stores:
        store.push(Path(store.local) / "models" / "predictor.keras")  # calibrated
    print_results(terminal, results, output)
