"""`laser-jnd train`: backbones, then heads, on Ray's workers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laser_dist import api
from laser_dist.commands.options import add_dataset, level_list, whole_number, worker_range
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.training_progress import TerminalFollower
from laser_dist.errors import UserError
from laser_dist.models.variants import VARIANTS, Variant, variant_named
from laser_dist.storage.prepared_datasets import find_dataset
from laser_dist.training.config import PRESETS, from_dict, override, to_dict
from laser_dist.training.session import check_stages, stages_of, warn_of_few_steps, workers_text
from laser_dist.wording import time_text

HELP = "train a predictor: backbones first, then heads"
EXAMPLE = """\
examples:
  laser-jnd train mj-lat --preset tiny --dataset runs/data --output runs/first
  laser-jnd train lat --levels 2 --preset tiny --dataset runs/data --set heads.epochs=50
  laser-jnd train mj-rec --preset tiny --dataset runs/data --init-from runs/first
  laser-jnd train mj-lat --dataset videoset_jnd/1080p --data-dir gs://bucket/data
  laser-jnd train --resume runs/first
  laser-jnd train mj-lat --dataset videoset_jnd/1080p --data-dir gs://bucket/data \\
    --output gs://bucket/runs/first --workers 4:8 --gpus-per-worker 4 --per-replica-batch-size 8
"""
DEFAULT_PRESET = "paper"
# Options that a resumed run cannot change: their names among the parsed arguments.
_FIXED = {
    "variant": "VARIANT",
    "preset": "--preset",
    "config": "--config",
    "dataset": "--dataset",
    "data_dir": "--data-dir",
    "output": "--output",
    "init_from": "--init-from",
    "levels": "--levels",
    "no_feature_cache": "--no-feature-cache",
    "per_replica_batch_size": "--per-replica-batch-size",
    "assignments": "--set",
    "seed": "--seed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.set_defaults(usage_error=parser.error)
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("variant", choices=names, nargs="?", help="predictor to train")
    add_dataset(parser, "prepared dataset")
    add_levels(parser)
    add_config(parser)
    add_settings(parser)
    parser.add_argument(
        "--output",
        metavar="PATH_OR_URL",
        help="folder of the run, or its location in a bucket (gs://, s3://); an unfinished run "
        "with the same settings is resumed (default: runs/VARIANT-PRESET)",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="resume the run in this folder or bucket with its own settings; only options for "
        "workers and checkpoints can be changed",
    )
    parser.add_argument(
        "--init-from",
        metavar="RUN",
        help="reuse the backbones of this run, or of this folder of models, in a folder or bucket",
    )
    parser.add_argument(
        "--stages",
        type=lambda text: [name for name in text.split(",") if name],
        metavar="STAGE[,STAGE]",
        help="train only these stages and those that they need",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print all settings as JSON, as --config reads them, and exit",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the settings and the dataset, print the stages, and exit; nothing is created",
    )


def add_levels(parser: argparse.ArgumentParser) -> None:
    """Declare `--levels`."""
    parser.add_argument(
        "--levels",
        type=level_list,
        metavar="LEVELS",
        help="JND levels to train a single-level variant for, such as 2 or 1,3 (default: 1,2,3)",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare `--config`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="JSON file of settings that replace the preset's; other options replace the file's",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare the settings of a training, the arguments of `settings_of`."""
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help=f"size and length of the training (default: {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--no-feature-cache",
        action="store_true",
        help="recompute the features of frozen backbones in every epoch",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="assignments",
        help="change a setting of the preset, such as heads.epochs=20; can be repeated; "
        "`laser-jnd settings` lists all",
    )
    parser.add_argument(
        "--workers",
        type=worker_range,
        metavar="N|A:B",
        help="number of worker processes; 4:8 starts with 4 or more and uses up to 8 "
        "(cluster.num_workers, cluster.min_workers)",
    )
    parser.add_argument(
        "--per-replica-batch-size",
        type=whole_number(1),
        metavar="N",
        help="examples per step and device: sets the batch sizes to N times the largest number of "
        "devices asked for, and they stay when workers come and go",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=whole_number(0),
        metavar="N",
        help="GPUs per worker, each with a replica of the model; 0 trains on the CPU "
        "(cluster.gpus_per_worker)",
    )
    parser.add_argument(
        "--cpus-per-worker",
        type=whole_number(1),
        metavar="N",
        help="cores and threads per worker (cluster.cpus_per_worker)",
    )
    parser.add_argument(
        "--checkpoint-every",
        metavar="INTERVAL",
        help="steps, epochs or minutes between two checkpoints, such as 200steps or 10minutes "
        "(checkpoint_every)",
    )
    parser.add_argument(
        "--profile",
        type=whole_number(1),
        metavar="N",
        help="trace N steps of each stage for TensorBoard's profiler (profile_steps)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0, 2**31 - 1), metavar="S", help="random seed (seed)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Train the predictor, or the stages of it that are missing."""
    from laser_dist.training.runs import check_run, read_run

    terminal = Terminal()
    if arguments.resume is not None:
        _check_resume(arguments)
        store = api.run_store(arguments.resume)
        training, dataset, splits = read_run(store, work_settings(arguments))
    else:
        training = resolve(arguments, needs_dataset=not arguments.print_config)
        dataset, splits = arguments.dataset, None
        preset = arguments.preset or DEFAULT_PRESET
        store = api.run_store(arguments.output or f"runs/{arguments.variant}-{preset}")
    check_stages(arguments.stages, training)
    if arguments.print_config:
        terminal.say_json(training)
        return
    if arguments.resume is None:
        dataset = find_dataset(arguments.dataset, arguments.data_dir)
    if arguments.dry_run:
        run_config = check_run(store, training, dataset, splits)
        warn_of_few_steps(run_config)
        _print_plan(terminal, run_config, store.location, arguments.stages)
        return
    started, follower = time.monotonic(), TerminalFollower(terminal)
    run = api.train(
        training["variant"],
        dataset,
        store.location,
        config=from_dict(training),
        init_from=arguments.init_from,
        stages=arguments.stages,
        splits=splits,
        follower=follower,
    )
    took = time_text(time.monotonic() - started)
    terminal.pairs([("run", store.location), ("time", took), *follower.throughput])
    if run is not None:
        terminal.say(f"Next: laser-jnd evaluate --model {store.location} --dataset {dataset}")


def _print_plan(
    terminal: Terminal, run_config: dict[str, Any], location: str, only: Sequence[str] | None
) -> None:
    """Print what a training would do: its data, its workers, and its stages."""
    from laser_dist.training.plan import with_needs

    card, training = run_config["dataset"], run_config["training"]
    config = from_dict(training)
    sizes = ", ".join(f"{len(sources)} {name}" for name, sources in card["splits"].items())
    terminal.pairs(
        [
            ("run", location),
            ("dataset", f"{card['name']} {card['version']}, {card['scale']}"),
            ("sources", sizes),
            ("workers", workers_text(training["cluster"])),
            ("checkpoints", f"every {config.checkpoint_every}"),
        ]
    )
    rows, plans = [], stages_of(training)
    for plan in plans if only is None else with_needs(plans, only):
        settings = config.scaled(plan.settings)
        needs = ", ".join(plan.needs) or "-"
        rate = f"{settings.learning_rate:.3g}"
        rows.append([plan.name, needs, str(settings.epochs), str(settings.batch_size), rate])
    terminal.say()
    terminal.table(["stage", "starts from", "epochs", "batch", "learning rate"], [rows])


def _check_resume(arguments: argparse.Namespace) -> None:
    """Check that no option is given that a resumed run cannot change."""
    given = [
        option for name, option in _FIXED.items() if getattr(arguments, name) not in (None, [])
    ]
    if not arguments.no_feature_cache and "--no-feature-cache" in given:
        given.remove("--no-feature-cache")
    if given:
        raise UserError(
            f"--resume cannot be combined with {', '.join(given)}: the run has its own settings."
        )


def resolve(arguments: argparse.Namespace, *, needs_dataset: bool = True) -> dict[str, Any]:
    """Return the settings of the command line's training as plain values; see `settings_of`.

    Exits with the command's usage if a required argument is missing.
    """
    required = {"VARIANT": arguments.variant}
    if needs_dataset:
        required["--dataset"] = arguments.dataset
    if missing := [name for name, value in required.items() if value is None]:
        names = ", ".join(missing)
        arguments.usage_error(f"the following arguments are required (or --resume RUN): {names}")
    variant, levels = variant_named(arguments.variant), arguments.levels
    if levels is not None and variant.num_levels > 1:
        raise UserError(
            f"--levels does not apply to {variant.name}, which always learns all three levels.",
            hint="Leave it out, or train lat.",
        )
    return settings_of(arguments, variant, levels, arguments.config)


def settings_of(
    arguments: argparse.Namespace,
    variant: Variant,
    levels: Sequence[int] | None = None,
    file: Path | None = None,
) -> dict[str, Any]:
    """Return the settings of a new training as plain values.

    Args:
      arguments: parsed arguments of `add_settings`.
      variant: predictor to train.
      levels: JND levels of a single-level variant; None for all.
      file: file of settings, as `read_settings` reads it.

    Raises:
      UserError: an unknown setting, a value out of range, or the file is of another variant.
    """
    flags = {
        "seed": arguments.seed,
        "levels": levels and ",".join(map(str, sorted(levels))),
        "feature_cache": "false" if arguments.no_feature_cache else None,
    }
    assignments = [f"{path}={value}" for path, value in flags.items() if value is not None]
    assignments += work_settings(arguments)
    preset = arguments.preset or DEFAULT_PRESET
    config = api.resolve_config(variant.name, file or preset, preset=preset)
    changes = [*assignments, *arguments.assignments]
    return to_dict(override(config, changes, arguments.per_replica_batch_size))


def work_settings(arguments: argparse.Namespace) -> list[str]:
    """Return the given options for workers and checkpoints as settings, `PATH=VALUE` each."""
    least, most = arguments.workers or (None, None)
    several = (most or 1) > 1 or arguments.gpus_per_worker
    flags = {
        "cluster.cpu_devices": 1 if several else None,
        "cluster.num_workers": most,
        "cluster.min_workers": least or ("none" if most else None),
        "cluster.gpus_per_worker": arguments.gpus_per_worker,
        "cluster.cpus_per_worker": arguments.cpus_per_worker,
        "checkpoint_every": arguments.checkpoint_every,
        "profile_steps": arguments.profile,
    }
    return [f"{path}={value}" for path, value in flags.items() if value is not None]
