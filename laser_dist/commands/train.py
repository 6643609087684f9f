"""`laser-jnd train`: backbones, then heads, on Ray's workers."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import whole_number
from laser_dist.commands.places import add_dataset, find_dataset
from laser_dist.commands.processes import claim_signals
from laser_dist.commands.quiet import quiet
from laser_dist.commands.training_progress import TrainingProgress
from laser_dist.commands.wording import count_text, time_text
from laser_dist.errors import UserError

if TYPE_CHECKING:
    from laser_dist.commands.terminal import Terminal

HELP = "train a predictor: backbones first, then heads"
EXAMPLE = """\
examples:
  laser-jnd train mj-lat --preset demo --dataset runs/data --output runs/first
  laser-jnd train lat --level 2 --preset demo --dataset runs/data --set heads.epochs=50
  laser-jnd train mj-rec --preset demo --dataset runs/data --from runs/first
  laser-jnd train mj-lat --preset paper --dataset videoset_jnd/1080p --data-dir gs://bucket/data
  laser-jnd train --resume runs/first
"""
VARIANTS = ("lat", "rec", "e2e-lat", "e2e-rec", "mj-lat", "mj-rec")
PRESETS = ("demo", "paper")
SECONDS_BETWEEN_LOOKS = 0.2


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
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with this run, with its own settings; names nothing else",
    )
    parser.add_argument(
        "--from",
        type=Path,
        metavar="RUN",
        dest="given",
        help="take the backbones of this run, or of this folder of models, however they were "
        "trained",
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
        "--workers", type=whole_number(1), metavar="N", help="as --set cluster.num_workers=N"
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
        run_dir = arguments.resume
        config = resume_run(run_dir)
    else:
        training = resolve(arguments)
        dataset = find_dataset(arguments.dataset, arguments.data_dir)
        run_dir = arguments.output or Path("runs") / f"{arguments.variant}-{arguments.preset}"
        config = start_run(run_dir, training, dataset)
    beside = [path.parent for path in run_dir.parent.glob("*/config.json")]
    with quiet(run_dir / "logs" / "train.log", debug=arguments.debug) as terminal:
        started = time.monotonic()
        train_or_reuse(
            terminal,
            config,
            run_dir,
            beside=beside,
            given=arguments.given,
            only=arguments.stages_only,
        )
        terminal.facts([("run", str(run_dir)), ("time", time_text(time.monotonic() - started))])
        if is_finished(run_dir):
            dataset = config["dataset"]["dir"]
            terminal.say(f"Next: laser-jnd evaluate --model {run_dir} --dataset {dataset}")


def _check_alone(arguments: argparse.Namespace) -> None:
    """Refuses what a run that goes on has in its own settings."""
    others = "variant preset dataset data_dir output given level workers seed".split()
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
    from laser_dist.training.config import override, to_dict
    from laser_dist.training.presets import PRESETS as CONFIGS

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
        "cluster.num_workers": arguments.workers,
        "seed": arguments.seed,
        "levels": arguments.level,
        "feature_cache": "false" if arguments.no_feature_cache else None,
    }
    assignments = [f"{path}={value}" for path, value in flags.items() if value is not None]
    config = override(CONFIGS[arguments.preset](variant), [*assignments, *arguments.assignments])
    return to_dict(config)


def is_finished(run_dir: Path) -> bool:
    """Whether a run has its predictor."""
    return (run_dir / "models" / "predictor.keras").exists()


def train_or_reuse(
    terminal: Terminal,
    config: dict[str, Any],
    run_dir: Path,
    *,
    beside: Sequence[Path] = (),
    given: Path | None = None,
    only: Sequence[str] | None = None,
) -> None:
    """Trains a started run to its end and tells about it as it goes.

    Args:
      terminal: to speak to.
      config: of `start_run`.
      run_dir: of the run, as the user named it.
      beside: other runs, whose stages are taken over where they are the same.
      given: a run, or a folder of models, whose backbones are taken in any case.
      only: names of the stages to train, with those that they need; None for all.

    Raises:
      UserError: an unknown stage, or nothing to take from `given`.
    """
    from laser_dist.models.variants import variant_named
    from laser_dist.training.plan import inputs_of, plan_stages, waves, with_needs
    from laser_dist.training.reuse import given_files, needed, take_over

    if is_finished(run_dir):
        if given is not None:
            raise UserError(
                f"Run folder {run_dir}",
                "a run that is not finished, to take other backbones",
                "a finished one",
                "Name another folder with --output.",
            )
        terminal.say(f"  Reused: {run_dir} is there, a finished run of the same settings.")
        return
    training, fingerprint = config["training"], config["dataset"]["fingerprint"]
    plans = plan_stages(variant_named(config["variant"]), training["levels"])
    known = [plan.name for plan in plans]
    for name in only or ():
        if name not in known:
            raise UserError(
                "Option --stages-only", f"some of {', '.join(known)}", name, "Correct the name."
            )
    plans = with_needs(plans, known if only is None else only)
    if given is not None:
        from laser_dist.training.config import from_dict
        from laser_dist.training.saving import check_fits

        for file in given_files(given, plans):
            check_fits(file, from_dict(training).backbone)
    decisions = take_over(plans, training, fingerprint, run_dir, beside=beside, given=given)
    goals = only or [plan.name for plan in plans if plan.kind in ("head", "joint")]
    decisions = needed(plans, decisions, goals)
    plans = [plan for plan in plans if plan.name in {each.stage for each in decisions}]
    workers = count_text(training["cluster"]["num_workers"], "worker")
    terminal.say(f"  {config['variant']} in {count_text(len(plans), 'stage')}, {workers}")
    for each in decisions:
        terminal.say(f"  {each.stage}: {'trained now' if each.trains else 'reused'}, {each.why}")
    keys = {each.stage: each.key for each in decisions}
    done = [each.stage for each in decisions if not each.trains]
    work = {
        plan.name: {
            "key": keys[plan.name],
            "inputs": inputs_of(plan, training, fingerprint, keys),
        }
        for plan in plans
        if plan.name not in done
    }
    if work:
        train_watched(terminal, {**config, "work": work}, waves(plans, done))
    elif only is None:
        from laser_dist.training.config import from_dict
        from laser_dist.training.saving import finish_predictor

        finish_predictor(from_dict(training), run_dir, config["dataset"])


def train_watched(
    terminal: Terminal, config: dict[str, Any], groups: Sequence[Sequence[str]]
) -> None:
    """Trains in another thread, so that this one hears Ctrl-C, and shows the events.

    Ray takes SIGINT and SIGTERM over in the thread it runs in, if that is the main one, and then
    ends with status 0 or without ending its workers.
    """
    events: SimpleQueue[dict[str, Any]] = SimpleQueue()
    ending: list[BaseException | None] = []

    def work() -> None:
        from laser_dist.training.ray_entry import train

        try:
            train(config, groups, events.put)
        except BaseException as error:  # noqa: BLE001 - handed on to the main thread
            ending.append(error)
        else:
            ending.append(None)

    thread = threading.Thread(target=work, name="training", daemon=True)
    stages = [name for group in groups for name in group]
    progress = TrainingProgress(stages, each_epoch=not terminal.is_live)
    with terminal.live_line() as show:
        thread.start()
        while not ending or not events.empty():
            claim_signals()
            try:
                lines = progress.take(events.get(timeout=SECONDS_BETWEEN_LOOKS))
            except Empty:
                lines = []
            for line in lines:
                terminal.say(line)
            show(progress.line)
    thread.join()
    if ending[0] is not None:
        raise ending[0]
