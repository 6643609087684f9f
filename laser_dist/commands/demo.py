"""`laser-jnd demo`: the full pipeline, from photographs to a report, on this machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laser_dist import api, storage
from laser_dist.commands import build, evaluate, predict, synthesize
from laser_dist.commands.datasets import RESOLUTIONS, VIDEOSET
from laser_dist.commands.options import add_seed
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.training_progress import TerminalFollower
from laser_dist.errors import UserError
from laser_dist.wording import time_text

HELP = "run the full pipeline on a small synthetic dataset and write an HTML report"
EXAMPLE = """\
example:
  laser-jnd demo
"""
QPS = (18, 24, 29, 34, 39, 45)  # the build encodes the clips again at levels between these
NUM_STEPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs") / "demo",
        metavar="DIR",
        help="folder for all files (default: %(default)s)",
    )
    add_seed(parser, "the synthetic dataset and the training")


def run(arguments: argparse.Namespace) -> None:
    """Run all steps; reuse the clips and the dataset of an earlier demo, and replace its run."""
    output, seed = arguments.output, arguments.seed
    videoset, run_dir = output / "videoset", output / "run"
    started = time.monotonic()
    from beam_pipelines.synthetic.pipeline import check_output
    from laser_dist.storage.lease import free

    check_output(videoset)
    check_free(run_dir)
    free(api.run_store(run_dir))
    terminal = Terminal()
    terminal.say(f"Files are written to {output}, and decoded frames to the cache directory.")
    with _step(terminal, 1, "Create a synthetic VideoSet"):
        _synthesize(terminal, videoset, seed)
    with _step(terminal, 2, "Build the dataset"):
        dataset_dir = _build(terminal, videoset, output / "data")
    with _step(terminal, 3, "Train a predictor"):
        config = _train(terminal, run_dir, dataset_dir, seed)
    with _step(terminal, 4, "Evaluate it on the test split"):
        location = str(run_dir)
        results = evaluate.evaluate_models(terminal, str(dataset_dir), [location], location)
        evaluate.print_results(terminal, results, location)
    with _step(terminal, 5, "Predict one test clip"):
        _predict(terminal, videoset, run_dir, config)
    terminal.say()
    terminal.say(f"Done in {time_text(time.monotonic() - started)}. Open the report:")
    terminal.say(f"  {(run_dir / 'report' / 'index.html').absolute().as_uri()}", style="bold")


@contextmanager
def _step(terminal: Terminal, number: int, title: str) -> Iterator[None]:
    """Print a title before a step, and the time it took if it succeeds."""
    started = time.monotonic()
    terminal.say()
    terminal.say(f"[{number}/{NUM_STEPS}] {title}", style="bold")
    yield  # noqa: RUF075 - the time is printed only if the step succeeds
    terminal.say(f"  took {time_text(time.monotonic() - started)}")


def _synthesize(terminal: Terminal, folder: Path, seed: int) -> None:
    from beam_pipelines.synthetic.footage import shipped_photographs
    from beam_pipelines.synthetic.videoset import VideosetSettings

    num_sources = synthesize.KINDS["videoset"].num_sources
    settings = VideosetSettings(num_sources=num_sources, qps=QPS, seed=seed)
    # The folder belongs to the demo: another dataset in it is of an earlier version or seed. The
    # same holds for the built dataset.
    synthesize.make_or_reuse(terminal, shipped_photographs(), settings, folder, replace_other=True)


def _build(terminal: Terminal, manual_dir: Path, data_dir: Path) -> Path:
    options = build.BuildOptions(
        dataset=VIDEOSET,
        manual_dir=str(manual_dir),
        data_dir=str(data_dir),
        config="synthetic",
        replace_other=True,
    )
    with terminal.progress() as show:
        show("loading the libraries")
        resolved = build.resolve(options)
    return Path(build.build_or_reuse(terminal, resolved))


def _train(terminal: Terminal, run_dir: Path, dataset_dir: Path, seed: int) -> dict[str, Any]:
    from laser_dist.models.variants import MJ_LAT
    from laser_dist.storage.lease import free
    from laser_dist.training.config import override, tiny

    free(api.run_store(run_dir))
    if run_dir.exists():  # the demo's own, after `check_free`
        storage.remove(run_dir)
    config = override(tiny(MJ_LAT), [f"seed={seed}"])
    run = api.train(
        MJ_LAT.name, dataset_dir, run_dir, config=config, follower=TerminalFollower(terminal)
    )
    assert run is not None  # all stages
    return run.config


def check_free(run_dir: Path) -> None:
    """Check that only a run would be replaced.

    Raises:
      UserError: the folder of the run holds something else.
    """
    from laser_dist.training.runs import holds_run

    is_free = not run_dir.exists() or holds_run(run_dir)
    if not is_free and (not run_dir.is_dir() or any(run_dir.iterdir())):
        what = "has other files in it" if run_dir.is_dir() else "is a file"
        raise UserError(
            f"The demo cannot write its run to {run_dir}, which {what}.",
            hint="Name another folder with --output.",
        )


def _predict(terminal: Terminal, videoset: Path, run_dir: Path, config: dict[str, Any]) -> None:
    from laser_dist.jnd.videoset_labels import read_videoset_labels

    source_id = sorted(config["dataset"]["splits"]["test"])[0]
    resolution = RESOLUTIONS["synthetic"]
    labels = {s.source_id: s for s in read_videoset_labels(videoset, resolution).sources}
    clip = next(videoset.rglob(f"{source_id}_*_qp_00.264"))
    terminal.say(f"  laser-jnd predict {clip} --model {run_dir}")
    predictions = predict.predict_clips(terminal, [str(clip)], str(run_dir))
    terminal.say()
    predict.say_predictions(terminal, predictions)
    levels = ", ".join(f"{level.jnd:.0f}" for level in labels[source_id].levels)
    terminal.say(f"Levels of the simulated viewers: {levels}.")
