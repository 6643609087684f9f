"""`laser-jnd evaluate`: prediction error on the test sources, compared with baselines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_dist.commands.locations import add_dataset, find_dataset
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.wording import (
    NO_VALUE,
    count_text,
    interval_text,
    number_text,
    share_text,
)
from laser_dist.jnd.scale import NUM_LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from laser_dist.evaluation.metrics import PredictorScore
    from laser_dist.evaluation.results import EvaluationResults

HELP = "evaluate a run on held-out sources and write the report"
EXAMPLE = """\
examples:
  laser-jnd evaluate --model runs/first --dataset runs/data
  laser-jnd evaluate --model s3://bucket/runs/first --data-dir s3://bucket/data \\
      --dataset videoset_jnd/1080p
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model", required=True, metavar="RUN", help="path or URL of a finished run"
    )
    add_dataset(parser, "dataset that the run was trained on", required=True)
    parser.add_argument(
        "--output",
        metavar="PATH_OR_URL",
        help="where to write the results and the report (default: the run)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate the run and print the tables."""
    from laser_dist.storage import check_writable, is_url
    from laser_dist.training.runs import load_run

    # Check first, before anything large is imported or downloaded.
    if not is_url(arguments.model):
        load_run(Path(arguments.model))
    dataset = find_dataset(arguments.dataset, arguments.data_dir)
    output = arguments.output or arguments.model
    check_writable(output)
    evaluate_run(Terminal(), dataset, arguments.model, output)


def evaluate_run(terminal: Terminal, dataset: str, run: str, output: str) -> None:
    """Evaluate a run, write the results and the report, and print the tables.

    Args:
      terminal: terminal for the tables and the progress.
      dataset: location of the prepared dataset, path or URL.
      run: location of the run, path or URL.
      output: location for the results and the report, path or URL.
    """
    from laser_dist.storage import join
    from laser_dist.storage.local_copies import local_dataset, local_run, naming_locations

    with terminal.progress() as show, naming_locations(run, dataset):
        run_dir = local_run(run, show)
        dataset_dir = local_dataset(dataset, ("test",), show)
        show("Predicting the test sources")
        from laser_dist.evaluation.evaluate import REPORT, RESULTS, evaluate

        results = evaluate(dataset_dir, run_dir, output, run=run)
    print_results(terminal, results)
    terminal.pairs([("results", join(output, RESULTS)), ("report", join(output, REPORT))])


def print_results(terminal: Terminal, results: EvaluationResults) -> None:
    """Print the results of an evaluation as tables."""
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
    terminal.say("  Lower is better.\n  ratio: mean error divided by the constant baseline's.")
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
        terminal.say("  SIMULATED viewers: the results say nothing about people.")


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
    ]


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
