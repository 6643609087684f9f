"""`laser-jnd evaluate`: prediction errors on the test sources, next to those of baselines."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.options import add_dataset
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError
from laser_dist.jnd.scale import NUM_LEVELS
from laser_dist.wording import (
    NO_VALUE,
    count_text,
    interval_text,
    number_text,
    share_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from laser_dist.evaluation.metrics import PredictorScore
    from laser_dist.evaluation.results import EvaluationResults

HELP = "evaluate models on held-out sources and write the report"
EXAMPLE = """\
examples:
  laser-jnd evaluate --model runs/first --dataset runs/data
  laser-jnd evaluate --model runs/first --model runs/second --dataset runs/data --output runs/both
  laser-jnd evaluate --model mj-lat.keras --dataset runs/data --output runs/published
  laser-jnd evaluate --model s3://bucket/runs/first --data-dir s3://bucket/data \\
      --dataset videoset_jnd/1080p
"""
SIMULATED = "  SIMULATED viewers: the results say nothing about people."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="PATH_OR_URL",
        help="folder or URL of a finished run, or a model file (.keras); repeat it to compare "
        "several models",
    )
    add_dataset(parser, "dataset with levels of the same scale", required=True)
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="store the errors in the model file (.keras), so that its predictions have intervals"
        " and its encodes a margin of the right size",
    )
    parser.add_argument(
        "--output",
        metavar="PATH_OR_URL",
        help="where to write the results and the report (default: the run, if there is only one)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate the models and print the tables."""
    from laser_dist.storage import check_writable, is_url
    from laser_dist.storage.prepared_datasets import find_dataset
    from laser_dist.training.runs import load_run

    # Check first, before anything large is imported or downloaded.
    models: list[str] = list(dict.fromkeys(arguments.model))
    for model in models:
        if not is_url(model) and not Path(model).is_file():
            load_run(Path(model))
    dataset = find_dataset(arguments.dataset, arguments.data_dir)
    if arguments.output is None and (len(models) > 1 or Path(models[0]).is_file()):
        raise UserError(
            "Several models, or a model file, have no folder for the results.",
            hint="Name one with --output.",
        )
    if arguments.calibrate and (len(models) > 1 or Path(models[0]).suffix != ".keras"):
        raise UserError(
            "--calibrate needs one model file (.keras).",
            hint="A run is calibrated with its validation split; export a model again after it was"
            " calibrated.",
        )
    output = arguments.output or models[0]
    check_writable(output)
    terminal = Terminal()
    results = evaluate_models(terminal, dataset, models, output)
    print_results(terminal, results, output)
    if arguments.calibrate:
        from laser_dist.evaluation.evaluate import calibrate

        calibrate(Path(models[0]), results)
        terminal.say(f"  Stored the errors of {results.num_sources} clips in {models[0]}.")


def evaluate_models(
    terminal: Terminal, dataset: str, models: Sequence[str], output: str
) -> EvaluationResults:
    """Evaluate models as `api.evaluate` does, and show the progress on the terminal."""
    from laser_dist import api

    with terminal.progress() as show:
        return api.evaluate(models, dataset, output, show=show)


def written(output: str) -> list[tuple[str, str]]:
    """Return the names and locations of the files that an evaluation writes for people."""
    from laser_dist.evaluation.evaluate import REPORT, RESULTS
    from laser_dist.storage import join

    return [("results", join(output, RESULTS)), ("report", join(output, REPORT))]


def print_results(terminal: Terminal, results: EvaluationResults, output: str) -> None:
    """Print the results of an evaluation as tables, and where its files are."""
    from laser_dist.jnd.calibration import COVERAGE

    scale, sur, saved = results.dataset.scale, results.sur, results.bits_saved
    scores = {name: result.score for name, result in results.predictors.items()}
    clips = count_text(results.num_sources, "held-out clip")
    groups = count_text(results.num_groups, "group")
    terminal.say(f"  {clips} in {groups}; mean error (95% interval):")
    terminal.say()
    header = ["", *scores]
    sections = error_sections(list(scores.values()), scale.name)
    terminal.table(header, wrap_intervals(terminal.width, header, sections))
    terminal.say()
    if results.provenance.run.startswith(f"{results.model}: "):
        terminal.say(f"  Models: {results.provenance.run}.")
    for note in results.provenance.notes:
        terminal.say(f"  {note}")
    terminal.say("  Lower is better.")
    terminal.say("  ratio: mean error divided by the constant baseline's.")
    terminal.say(f"  difference: mean error of {results.model} minus the column's.")
    terminal.say(f"  ±: interval for {COVERAGE:.0%} of the clips (share that is in it).")
    noise = ", ".join(number_text(value) for value in results.label_noise)
    terminal.say(f"  Label noise, from resampling the viewers: {noise}.")
    terminal.say()
    if sur is not None:
        title = f"SUR error, {scale.name}"
        sur_scores = [one.score for one in sur.predictors.values()]
        rows = _level_rows(
            lambda s, k: interval_text(s.wasserstein[k], s.wasserstein_interval[k]),
            sur_scores,
        )
        rows.append(["mean", *(number_text(score.mean_wasserstein) for score in sur_scores)])
        terminal.table([title, *sur.predictors], [rows])
        terminal.say()
    if saved.num_sources:
        finest = "finest encoding" if saved.finest is None else f"{scale.name} {saved.finest}"
        rows = _level_rows(
            lambda saved_at, k: share_text(saved_at[k]), [saved.viewers, saved.model]
        )
        terminal.table([f"bits saved vs. {finest}", "viewers", results.model], [rows])
        terminal.say()
    if saved.num_left_out:
        terminal.say(f"  Bit counts are unknown for {count_text(saved.num_left_out, 'clip')}.")
    if results.dataset.simulated:
        terminal.say(SIMULATED)
    terminal.pairs(written(output))


def error_sections(scores: Sequence[PredictorScore], scale: str) -> list[list[list[str]]]:
    """Return the rows for errors in levels and PSNR, intervals, and the ratio to the constant.

    Args:
      scores: a column for each.
      scale: name of the levels' scale.
    """
    no_values = [""] * len(scores)
    level_rows = _level_rows(
        lambda score, k: interval_text(score.abs_error[k], score.abs_error_interval[k]), scores
    )
    psnr_rows = _level_rows(lambda score, k: number_text(score.abs_psnr_error_db[k], " dB"), scores)
    interval_rows = _level_rows(lambda score, k: coverage_text(score, k), scores)
    means = [number_text(score.mean_abs_error) for score in scores]
    ratios = [
        interval_text(score.ratio_to_constant, score.ratio_to_constant_interval) for score in scores
    ]
    return [
        [[f"|Δ{scale}|", *no_values], *level_rows, ["mean", *means]],
        [["|ΔPSNR|", *no_values], *psnr_rows],
        [[f"± {scale}", *no_values], *interval_rows],
        [["ratio", *ratios]],
        *_difference_rows(scores),
    ]


def _difference_rows(scores: Sequence[PredictorScore]) -> list[list[list[str]]]:
    """Return the section of paired differences of the first column; none if it has none."""
    texts = [
        f"{each.mean:+.2f} ({each.interval[0]:+.2f} to {each.interval[1]:+.2f})"
        if all(map(math.isfinite, (each.mean, *each.interval)))
        else NO_VALUE
        for each in scores[0].differences.values()
    ]
    return [[["difference", NO_VALUE, *texts]]] if texts else []


def coverage_text(score: PredictorScore, index: int) -> str:
    """Return the half-width of a level's interval and its coverage, such as "3.12 (91.2%)"."""
    interval = score.prediction_interval
    if interval is None:
        return NO_VALUE
    width, coverage = interval.half_width[index], interval.coverage[index]
    return f"{number_text(width)} ({share_text(coverage)})"


def _level_rows(cell: Callable[[Any, int], str], columns: Sequence[Any]) -> list[list[str]]:
    """Return a row for each level; `cell` gives the text for a column and a level from 0."""
    return [
        [f"JND{index + 1}", *(cell(column, index) for column in columns)]
        for index in range(NUM_LEVELS)
    ]


def wrap_intervals(
    width: int, header: Sequence[str], sections: Sequence[Sequence[Sequence[str]]]
) -> list[list[list[str]]]:
    """Move all intervals to a second line if the table is wider than the terminal.

    Args:
      width: of the terminal, columns.
      header: header of the table.
      sections: sections of the table; an interval is the part of a cell from " (".
    """
    columns = zip(*[header, *(row for section in sections for row in section)], strict=True)
    gaps = 3 * (len(header) - 1)
    fits = sum(max(map(len, column)) for column in columns) + gaps <= width
    return [
        [[cell if fits else cell.replace(" (", "\n(") for cell in row] for row in section]
        for section in sections
    ]
