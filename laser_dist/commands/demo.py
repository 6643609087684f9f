"""`laser-jnd demo`: photographs to report, on this machine, in minutes."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from laser_dist.commands import build, evaluate, predict, synthesize, train, training_run
from laser_dist.commands.datasets import RESOLUTIONS, VIDEOSET
from laser_dist.commands.options import add_seed
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.wording import time_text
from laser_dist.errors import UserError

HELP = "do the whole job on a synthetic dataset: photographs to report"
EXAMPLE = """\
example:
  laser-jnd demo
"""
QPS = (18, 24, 29, 34, 39, 45)  # a level between two is coded anew when it is built
NUM_WORKERS = 2
NUM_STEPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs") / "demo",
        metavar="DIR",
        help="folder for all of it (default: %(default)s)",
    )
    add_seed(parser, "the synthetic dataset, the training and the bootstrap")


def run(arguments: argparse.Namespace) -> None:
    """Runs all steps; the synthetic dataset and the dataset are reused where they are there."""
    output, seed = arguments.output, arguments.seed
    videoset, run_dir = output / "videoset", output / "run"
    started = time.monotonic()
    synthesize.check_output(videoset)
    check_room(run_dir)
    terminal = Terminal()
    terminal.say(f"All files go to {output}.")
    with _Step(terminal, 1, "Synthetic VideoSet"):
        _synthesize(terminal, videoset, seed)
    with _Step(terminal, 2, "Dataset"):
        dataset_dir = _build(terminal, videoset, output / "data")
    with _Step(terminal, 3, "Training"):
        config = _train(terminal, run_dir, dataset_dir, seed)
    with _Step(terminal, 4, "Evaluation"):
        from laser_dist.training.storage.run_store import RunStore

        evaluate.evaluate_run(
            terminal, str(dataset_dir), str(run_dir), RunStore(str(run_dir)), seed
        )
    with _Step(terminal, 5, "Prediction of one held-out clip"):
        _predict(terminal, videoset, run_dir, config)
    terminal.say(f"\nDone in {time_text(time.monotonic() - started)}. Look at the report:")
    terminal.say(f"  {run_dir / 'report' / 'index.html'}", style="bold")


class _Step:
    """A title before a part of the work and its time after it, if it succeeds."""

    def __init__(self, terminal: Terminal, number: int, title: str) -> None:
        self._terminal = terminal
        self._title = f"[{number}/{NUM_STEPS}] {title}"

    def __enter__(self) -> None:
        self._started = time.monotonic()
        self._terminal.say(f"\n{self._title}", style="bold")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._terminal.say(f"  took {time_text(time.monotonic() - self._started)}")


def _synthesize(terminal: Terminal, folder: Path, seed: int) -> None:
    from beam_pipelines.synthetic.footage import shipped_photographs
    from beam_pipelines.synthetic.videoset import VideosetSettings

    num_sources = synthesize.KINDS["videoset"].num_sources
    settings = VideosetSettings(num_sources=num_sources, qps=QPS, seed=seed)
    # As with the dataset below: the folder is the demo's own, so another dataset in it is one of
    # an earlier version or of another seed.
    synthesize.make_or_reuse(terminal, shipped_photographs(), settings, folder, replace_other=True)


def _build(terminal: Terminal, manual_dir: Path, data_dir: Path) -> Path:
    order = build.Order(
        dataset=VIDEOSET,
        manual_dir=str(manual_dir),
        data_dir=str(data_dir),
        config="synthetic",
        replace_other=True,
    )
    with terminal.progress() as show:
        show("loading the libraries")
        found = build.look_at(order)
    return Path(build.build_or_reuse(terminal, found))


def _train(terminal: Terminal, run_dir: Path, dataset_dir: Path, seed: int) -> dict[str, Any]:
    from laser_dist.models.variants import MJ_LAT
    from laser_dist.training.config import override, tiny, to_dict
    from laser_dist.training.runs import start_run

    if make_room(run_dir):
        terminal.say(f"  Trained anew; the run before is now {run_dir}-before")
    training = override(tiny(MJ_LAT), [f"cluster.num_workers={NUM_WORKERS}", f"seed={seed}"])
    store = train.run_store(str(run_dir))
    config = start_run(store, to_dict(training), dataset_dir)
    training_run.train_or_reuse(terminal, config, store)
    return config


def check_room(run_dir: Path) -> None:
    """Refuses to train where something else lies: nobody's other files are ever removed.

    Raises:
      UserError: the place of the run, or of the one before it, is taken by anything but a run.
    """
    from laser_dist.training.runs import CONFIG_FILE

    for folder in (run_dir, _before(run_dir)):
        is_free = not folder.exists() or (folder / CONFIG_FILE).is_file()
        if not is_free and (not folder.is_dir() or any(folder.iterdir())):
            got = "a folder with other things in it" if folder.is_dir() else "a file"
            raise UserError(
                f"Run folder {folder}", "a run or nothing", got, "Name another with --output."
            )


def _before(run_dir: Path) -> Path:
    return run_dir.with_name(f"{run_dir.name}-before")


def make_room(run_dir: Path) -> bool:
    """Moves a finished run aside, in place of the one before it; removes an unfinished one.

    Returns:
      Whether there was a finished one.
    """
    finished = (run_dir / "models" / "predictor.keras").exists()
    if finished:
        before = _before(run_dir)
        shutil.rmtree(before, ignore_errors=True)
        run_dir.rename(before)
    elif run_dir.exists():
        shutil.rmtree(run_dir)
    return finished


def _predict(terminal: Terminal, videoset: Path, run_dir: Path, config: dict[str, Any]) -> None:
    from laser_dist.jnd.videoset_labels import read_videoset_labels

    source_id = sorted(config["dataset"]["splits"]["test"])[0]
    resolution = RESOLUTIONS["synthetic"]
    labels = {s.source_id: s for s in read_videoset_labels(videoset, resolution).sources}
    clip = next(videoset.rglob(f"{source_id}_*_qp_00.264"))
    terminal.say(f"  laser-jnd predict {clip} --model {run_dir}")
    _, predictions = predict.predict_clips(terminal, [clip], run_dir)
    terminal.say()
    predict.say_predictions(terminal, [clip], predictions, config)
    levels = ", ".join(f"{level.jnd:.0f}" for level in labels[source_id].levels)
    terminal.say(f"The simulated viewers said {levels}.")
