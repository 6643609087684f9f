"""`laser-jnd train`: backbones, then heads, on Ray's workers."""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import whole_number
from laser_dist.commands.places import find_dataset
from laser_dist.commands.processes import claim_signals
from laser_dist.commands.quiet import quiet
from laser_dist.commands.training_progress import TrainingProgress
from laser_dist.commands.wording import count_text, time_text

if TYPE_CHECKING:
    from laser_dist.commands.terminal import Terminal

HELP = "train a predictor: backbones first, then heads"
EXAMPLE = """\
examples:
  laser-jnd train mj-lat --preset demo --dataset runs/data --output runs/first
  laser-jnd train mj-lat --preset demo --dataset runs/data --set heads.epochs=50
"""
STAGES = {"mj-lat": ("image", "jnd1", "jnd2", "jnd3", "mj-lat")}
PRESETS = ("demo", "paper")
SECONDS_BETWEEN_LOOKS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("variant", choices=tuple(STAGES), help="predictor to train")
    parser.add_argument(
        "--preset", choices=PRESETS, required=True, help="size and length of the training"
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        required=True,
        metavar="DIR",
        help="prepared dataset, or the --data-dir that holds just one",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="RUN",
        help="the run's folder; an unfinished run of the same settings goes on "
        "(default: runs/VARIANT-PRESET)",
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


def run(arguments: argparse.Namespace) -> None:
    """Trains the predictor, or what is missing of it."""
    training = resolve(arguments)
    dataset_dir = find_dataset(arguments.dataset)
    run_dir = arguments.output or Path("runs") / f"{arguments.variant}-{arguments.preset}"
    from laser_dist.training.runs import start_run

    config = start_run(run_dir, training, dataset_dir)
    with quiet(run_dir / "logs" / "train.log", debug=arguments.debug) as terminal:
        started = time.monotonic()
        train_or_reuse(terminal, config, run_dir)
        terminal.facts([("run", str(run_dir)), ("time", time_text(time.monotonic() - started))])
        terminal.say(f"Next: laser-jnd evaluate --model {run_dir} --dataset {dataset_dir}")


def resolve(arguments: argparse.Namespace) -> dict[str, Any]:
    """The training's settings as plain values.

    Raises:
      UserError: an unknown setting, or a value that is refused.
    """
    from laser_dist.training.config import override, to_dict
    from laser_dist.training.presets import PRESETS as CONFIGS

    flags = {"cluster.num_workers": arguments.workers, "seed": arguments.seed}
    assignments = [f"{path}={value}" for path, value in flags.items() if value is not None]
    config = override(CONFIGS[arguments.preset](), [*assignments, *arguments.assignments])
    return to_dict(config)


def train_or_reuse(terminal: Terminal, config: dict[str, Any], run_dir: Path) -> None:
    """Trains a started run to its end and tells about it as it goes.

    Args:
      terminal: to speak to.
      config: of `start_run`.
      run_dir: of the run, as the user named it.
    """
    if (run_dir / "models" / "predictor.keras").exists():
        terminal.say(f"  Reused: {run_dir} is there, a finished run of the same settings.")
        return
    workers = count_text(config["training"]["cluster"]["num_workers"], "worker")
    stages = STAGES[config["variant"]]
    terminal.say(f"  {config['variant']} in {len(stages)} stages, {workers}")
    train_watched(terminal, config)


def train_watched(terminal: Terminal, config: dict[str, Any]) -> None:
    """Trains in another thread, so that this one hears Ctrl-C, and shows the events.

    Ray takes SIGINT and SIGTERM over in the thread it runs in, if that is the main one, and then
    ends with status 0 or without ending its workers.
    """
    events: SimpleQueue[dict[str, Any]] = SimpleQueue()
    ending: list[BaseException | None] = []

    def work() -> None:
        from laser_dist.training.ray_entry import train

        try:
            train(config, events.put)
        except BaseException as error:  # noqa: BLE001 - handed on to the main thread
            ending.append(error)
        else:
            ending.append(None)

    thread = threading.Thread(target=work, name="training", daemon=True)
    progress = TrainingProgress(STAGES[config["variant"]], each_epoch=not terminal.is_live)
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
        for line in progress.finish(time.time()):
            terminal.say(line)
    thread.join()
    if ending[0] is not None:
        raise ending[0]
