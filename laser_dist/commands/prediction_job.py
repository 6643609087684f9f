"""`laser-jnd predict --runner`: many clips with Apache Beam, into Parquet tables."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from laser_dist.commands.beam_options import check_workers, runner_options
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.wording import count_text

if TYPE_CHECKING:
    from laser_dist.prediction.predictor import Predictor

logger = logging.getLogger(__name__)


def run_job(
    arguments: argparse.Namespace, clips: Sequence[str], load: Callable[[], Predictor]
) -> None:
    """Predict clips with a Beam runner and print how many rows have an error.

    Args:
      arguments: of `laser-jnd predict`, with a runner.
      clips: paths or URLs, at least one.
      load: loads the model in any process of the job.

    Raises:
      UserError: options that do not apply, an unusable model or output folder, no clip could be
        predicted, or the job fails.
    """
    from beam_pipelines.prediction import PredictionPlan, predict_to_tables
    from beam_pipelines.runner import num_processes
    from laser_dist.prediction.clips import Sampling
    from laser_dist.prediction.predict import check_interval, check_sur
    from laser_dist.storage import is_url

    check_options(arguments)
    output = arguments.output
    local = next((clip for clip in clips if not is_url(clip)), clips[0])
    options = runner_options(
        "predict",
        runner=arguments.runner,
        workers=arguments.workers,
        flags=arguments.beam_flags,
        inputs={"CLIP": local, "--model": arguments.model},
        output=("--output", output),
    )
    terminal = Terminal()
    with terminal.progress() as show:
        show("loading the model")
        predictor = load()
        check_sur(predictor, arguments.sur)
        interval = check_interval(predictor, arguments.interval)
        show(f"predicting {count_text(len(clips), 'clip')}")
        plan = PredictionPlan(
            clips=tuple(clips),
            output=output,
            load=load,
            sampling=Sampling(
                num_frames=arguments.frames,
                width=predictor.width,
                height=predictor.height,
                scenes=arguments.scenes,
                hdr=arguments.hdr,
            ),
            sur=arguments.sur,
            interval=interval,
            num_processes=num_processes(options),
        )
        num_errors = predict_to_tables(plan, options, partial(logger.info, "  Running as %s"))
    if num_errors == len(clips):
        raise UserError(
            "None of the clips could be predicted.",
            hint=f"The column error of the tables in {output} has the reasons.",
        )
    terminal.pairs(
        [
            ("clips", f"{len(clips)}, {num_errors} with an error"),
            ("tables", f"{len(plan.tables)} in {output}"),
        ]
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Check the options that `--runner` excludes or needs.

    Raises:
      UserError: all problems at once.
    """
    problems = check_workers(arguments.runner, arguments.workers)
    if arguments.output is None:
        problems.append("--runner needs --output, a folder or URL for the tables.")
    if arguments.format != "table" or arguments.resume:
        problems.append("--runner writes Parquet tables, without --format and --resume.")
    if arguments.isolate is False:
        problems.append("--runner always reads clips in child processes, without --no-isolate.")
    if problems:
        raise UserError(" ".join(problems))
