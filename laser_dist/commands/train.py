"""`laser-jnd train`: backbones, then heads, on Ray's workers."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.locations import add_dataset, find_dataset
from laser_dist.commands.options import whole_number, worker_range
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.training_run import is_finished, train_or_reuse
from laser_dist.commands.wording import time_text
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from laser_dist.training.storage.run_store import RunStore

HELP = "train a predictor: backbones first, then heads"
EXAMPLE = """\
examples:
  laser-jnd train mj-lat --preset tiny --dataset runs/data --output runs/first
  laser-jnd train lat --level 2 --preset tiny --dataset runs/data --set heads.epochs=50
  laser-jnd train mj-rec --preset tiny --dataset runs/data --from runs/first
  laser-jnd train mj-lat --preset paper --dataset videoset_jnd/1080p --data-dir gs://bucket/data
  laser-jnd train --resume runs/first
  laser-jnd train mj-lat --preset paper --dataset videoset_jnd/1080p --data-dir gs://mine/data \\
    --storage gs://mine/runs/first --workers 4:8 --gpus-per-worker 4
"""
VARIANTS = ("lat", "rec", "e2e-lat", "e2e-rec", "mj-lat", "mj-rec")
PRESETS = ("tiny", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("variant", choices=VARIANTS, nargs="?", help="predictor to train")
    parser.add_argument("--preset", choices=PRESETS, help="size and length of the training")
    add_dataset(parser, "prepared dataset")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="RUN",
        help="the run's folder; an unfinished run of the same settings goes on "
        "(default: runs/VARIANT-PRESET). Stages of other runs beside it are taken over where their "
        "settings and data are the same",
    )
    parser.add_argument(
        "--storage",
        metavar="PLACE",
        help="in place of --output: where the run is kept, gs://…, s3://… or a folder that all "
        "machines of the cluster share",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with this run, a folder or a place in a bucket, with its own settings; only "
        "who does the work may be named beside it",
    )
    parser.add_argument(
        "--from",
        metavar="RUN",
        dest="given",
        help="take the backbones of this run, or of this folder of models, here or in a bucket, "
        "however they were trained",
    )
    parser.add_argument(
        "--stages-only",
        type=names,
        metavar="STAGE[,STAGE]",
        help="train these stages and those that they need, and no more",
    )
    parser.add_argument(
        "--level",
        type=int,
        choices=(1, 2, 3),
        help="of a single-level variant: this JND level alone (default: each of the three)",
    )
    parser.add_argument(
        "--no-feature-cache",
        action="store_true",
        help="compute frozen backbones' features anew in every epoch, not once into files",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="assignments",
        help="change a setting of the preset, such as heads.epochs=20; may be given again",
    )
    parser.add_argument(
        "--workers",
        type=worker_range,
        metavar="N|A:B",
        help="processes that share each batch; of 4:8, as many as there is room for, from 4 up "
        "(cluster.num_workers, cluster.min_workers)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=whole_number(0),
        metavar="N",
        help="devices that each worker mirrors the model over (cluster.gpus_per_worker)",
    )
    parser.add_argument(
        "--cpus-per-worker",
        type=whole_number(1),
        metavar="N",
        help="cores and threads of each worker (cluster.cpus_per_worker)",
    )
    parser.add_argument(
        "--checkpoint-every-steps",
        type=whole_number(1),
        metavar="N",
        help="beside the checkpoint after each epoch (checkpoint_every_steps)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0, 2**31 - 1), metavar="S", help="as --set seed=S"
    )


def names(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name for name in text.split(",") if name]


def run(arguments: argparse.Namespace) -> None:
    """Trains the predictor, or what is missing of it."""
    from laser_dist.training.runs import resume_run, start_run

    if arguments.resume is not None:
        _check_alone(arguments)
        store = run_store(arguments.resume)
        config = resume_run(store, work_settings(arguments))
    else:
        training = resolve(arguments)
        dataset = find_dataset(arguments.dataset, arguments.data_dir)
        store = run_store(_place(arguments))
        config = start_run(store, training, dataset)
    run_dir = store.local
    # Buckets are not searched: a run there names what it takes over with --from.
    beside = [] if store.is_remote else [p.parent for p in run_dir.parent.glob("*/config.json")]
    terminal = Terminal()
    started = time.monotonic()
    pace = train_or_reuse(
        terminal,
        config,
        store,
        beside=beside,
        given=arguments.given,
        only=arguments.stages_only,
    )
    terminal.pairs([("run", store.place), ("time", time_text(time.monotonic() - started)), *pace])
    if is_finished(store):
        dataset = config["dataset"]["dir"]
        terminal.say(f"Next: laser-jnd evaluate --model {store.place} --dataset {dataset}")


def run_store(place: str) -> RunStore:
    """The store of a run, in a folder or a bucket."""
    from laser_dist.training.storage.run_store import RunStore
    from laser_dist.training.storage.store import is_url

    return RunStore(place if is_url(place) else str(Path(place)))


def _place(arguments: argparse.Namespace) -> str:
    """Where a new run is kept.

    Raises:
      UserError: it is named twice.
    """
    if arguments.storage is not None and arguments.output is not None:
        raise UserError(
            "Option --storage", "no --output beside it", str(arguments.output), "Name one place."
        )
    default = Path("runs") / f"{arguments.variant}-{arguments.preset}"
    return arguments.storage or str(arguments.output or default)


def _check_alone(arguments: argparse.Namespace) -> None:
    """Refuses what a run that goes on has in its own settings."""
    others = "variant preset dataset data_dir output storage given level seed".split()
    named = [name for name in others if getattr(arguments, name) is not None]
    if named or arguments.assignments or arguments.no_feature_cache:
        got = ", ".join(named) or "changed settings"
        raise UserError(
            "Option --resume", "no settings beside it", got, "The run has its own: leave them out."
        )


def resolve(arguments: argparse.Namespace) -> dict[str, Any]:
    """The training's settings as plain values.

    Raises:
      UserError: something is not named, an unknown setting, or a value that is refused.
    """
    from laser_dist.models.variants import variant_named
    from laser_dist.training.config import PRESETS as CONFIGS
    from laser_dist.training.config import override, to_dict

    for what in ("variant", "preset", "dataset"):
        if getattr(arguments, what) is None:
            option = what.upper() if what == "variant" else f"--{what}"
            raise UserError(
                "Command train", option, "none", "Name it, or go on with a run: --resume RUN."
            )
    variant = variant_named(arguments.variant)
    if arguments.level is not None and variant.num_levels > 1:
        raise UserError(
            "Option --level", "a single-level variant", variant.name, "Leave it out, or train lat."
        )
    flags = {
        "seed": arguments.seed,
        "levels": arguments.level,
        "feature_cache": "false" if arguments.no_feature_cache else None,
    }
    assignments = [f"{path}={value}" for path, value in flags.items() if value is not None]
    assignments += work_settings(arguments)
    config = override(CONFIGS[arguments.preset](variant), [*assignments, *arguments.assignments])
    return to_dict(config)


def work_settings(arguments: argparse.Namespace) -> list[str]:
    """The settings of who does the work that were named, as `path=value`."""
    least, most = arguments.workers or (None, None)
    flags = {
        "cluster.num_workers": most,
        "cluster.min_workers": least or ("none" if most else None),
        "cluster.gpus_per_worker": arguments.gpus_per_worker,
        "cluster.cpus_per_worker": arguments.cpus_per_worker,
        "checkpoint_every_steps": arguments.checkpoint_every_steps,
    }
    return [f"{path}={value}" for path, value in flags.items() if value is not None]
