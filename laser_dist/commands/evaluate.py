"""`laser-jnd evaluate`: errors on sources never trained on, beside plain predictors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from laser_dist.commands.options import add_seed
from laser_dist.commands.places import add_dataset, find_dataset
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.wording import (
    count_text,
    interval_text,
    number_text,
    share_interval_text,
    share_text,
)
from laser_dist.errors import UserError
from laser_dist.jnd.scale import NUM_LEVELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from laser_dist.evaluation.metrics import PredictorScore
    from laser_dist.evaluation.results import EvaluationResults
    from laser_dist.training.storage.run_store import RunStore

HELP = "measure a run on held-out sources and write the report"
EXAMPLE = """\
example:
  laser-jnd evaluate --model runs/first --dataset runs/data
  laser-jnd evaluate --model s3://bucket/runs/first --data-dir s3://bucket/data \\
      --dataset videoset_jnd/1080p
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--model", required=True, metavar="RUN", help="folder or bucket of a finished run"
    )
    add_dataset(parser, "the dataset it was trained on", required=True)
    parser.add_argument(
        "--output",
        metavar="PLACE",
        help="folder or bucket for results and report (default: the run)",
    )
    add_seed(parser, "the bootstrap")


def run(arguments: argparse.Namespace) -> None:
    """Evaluates the run and prints the table."""
    from laser_dist.training.runs import load_run
    from laser_dist.training.storage.run_store import RunStore
    from laser_dist.training.storage.store import is_url

    # For their errors, before anything heavy is loaded or brought here.
    if not is_url(arguments.model):
        load_run(Path(arguments.model))
    dataset = find_dataset(arguments.dataset, arguments.data_dir)
    output = RunStore(arguments.output or arguments.model)
    if output.is_remote:
        output.check_writable("--output")
    evaluate_run(Terminal(), dataset, arguments.model, output, arguments.seed)


def evaluate_run(terminal: Terminal, dataset: str, run: str, output: RunStore, seed: int) -> None:
    """Evaluates a run, writes the report and tells the figures.

    Args:
      terminal: to speak through.
      dataset: place of the prepared dataset, path or URL.
      run: place of the run, the same.
      output: where results and report go.
      seed: of the bootstrap.
    """
    from laser_dist.training.storage.copies import local_dataset, local_run, named_by_place
    from laser_dist.training.storage.store import below

    with terminal.progress() as show, named_by_place(run, dataset):
        run_dir = local_run(run, show)
        dataset_dir = local_dataset(dataset, ("test",), show)
        show("predicting the held-out sources")
        from laser_dist.evaluation.evaluate import REPORT, RESULTS, WRITTEN, evaluate

        results = evaluate(dataset_dir, run_dir, output.local, seed, run=run)
        if output.is_remote:
            show(f"bringing the results to {output.place}")
            _push(output, [output.local / name for name in WRITTEN])
    say_results(terminal, results)
    places = (("results", RESULTS), ("report", REPORT))
    terminal.pairs([(name, below(output.place, path)) for name, path in places])


def _push(output: RunStore, paths: Sequence[Path]) -> None:
    try:
        output.push(*paths)
    except OSError as error:
        raise UserError(
            f"Results in {output.place}",
            "a bucket that can be written",
            " ".join(str(error).split()),
            f"They lie in {output.local}: copy them, or evaluate again.",
        ) from error


def say_results(terminal: Terminal, results: EvaluationResults) -> None:
    """Prints the figures of an evaluation."""
    scale = results.dataset.scale.name
    scores = {name: result.score for name, result in results.predictors.items()}
    clips = count_text(results.num_sources, "held-out clip")
    groups = count_text(results.num_groups, "group")
    terminal.say(f"  {clips} in {groups}; mean error (95 % interval):")
    terminal.say()
    header = ["", *scores]
    sections = [level_rows(scores, scale), psnr_rows(scores), ratio_rows(scores)]
    terminal.table(header, within(terminal.width, header, sections))
    terminal.say()
    terminal.say("  Lower is better. ratio: to the constant predictor's mean.")
    terminal.say()
    say_sur(terminal, results)
    say_bits_saved(terminal, results)
    if results.dataset.simulated:
        terminal.say("  Viewers are SIMULATED: this says nothing about people.")


def say_sur(terminal: Terminal, results: EvaluationResults) -> None:
    """Prints how far the curves of satisfied viewers are off, of a model that gives spreads."""
    if results.sur is None:
        return
    scores = {name: one.score for name, one in results.sur.predictors.items()}
    rows = [
        [
            f"JND{level + 1}",
            *(
                share_interval_text(s.abs_difference[level], s.abs_difference_interval[level])
                for s in scores.values()
            ),
        ]
        for level in range(NUM_LEVELS)
    ]
    mean = ["mean", *(share_text(score.mean_abs_difference) for score in scores.values())]
    scale = results.dataset.scale
    title = f"satisfied viewers, |Δshare| over {scale.name} {scale.lowest}–{scale.highest}"
    terminal.table([title, *scores], [[*rows, mean]])
    terminal.say()


def say_bits_saved(terminal: Terminal, results: EvaluationResults) -> None:
    """Prints what coding at the levels saves, as far as bits are known."""
    saved = results.bits_saved
    if saved.num_sources:
        finest = "the finest coded"
        if saved.finest is not None:
            finest = f"{results.dataset.scale.name} {saved.finest}"
        rows = [
            [f"JND{level + 1}", share_text(viewers), share_text(model)]
            for level, (viewers, model) in enumerate(zip(saved.viewers, saved.model, strict=True))
        ]
        terminal.table([f"bits saved, against {finest}", "viewers", results.model], [rows])
        terminal.say()
    if saved.num_left_out:
        terminal.say(f"  Bits are not known of {count_text(saved.num_left_out, 'clip')}.")


def level_rows(scores: Mapping[str, PredictorScore], scale: str) -> list[list[str]]:
    """Rows of the mean absolute error of each level and of all."""
    rows = [
        [
            f"JND{level + 1}",
            *(
                interval_text(s.abs_error[level], s.abs_error_interval[level])
                for s in scores.values()
            ),
        ]
        for level in range(NUM_LEVELS)
    ]
    mean = ["mean", *(number_text(score.mean_abs_error) for score in scores.values())]
    return [_title(f"|Δ{scale}|", scores), *rows, mean]


def psnr_rows(scores: Mapping[str, PredictorScore]) -> list[list[str]]:
    """Rows of the mean error in dB that wrong levels amount to."""
    rows = [
        [
            f"JND{level + 1}",
            *(number_text(s.abs_psnr_error_db[level], " dB") for s in scores.values()),
        ]
        for level in range(NUM_LEVELS)
    ]
    return [_title("|ΔPSNR|", scores), *rows]


def within(
    width: int, header: Sequence[str], sections: Sequence[Sequence[Sequence[str]]]
) -> list[list[list[str]]]:
    """The same cells; intervals stand below their means in all of them where one line is too short.

    Args:
      width: in columns.
      header: of the table.
      sections: of the table.
    """
    columns = zip(*[header, *(row for section in sections for row in section)], strict=True)
    gaps = 3 * (len(header) - 1)
    fits = sum(max(map(len, column)) for column in columns) + gaps <= width
    return [
        [[cell if fits else cell.replace(" (", "\n(") for cell in row] for row in section]
        for section in sections
    ]


def ratio_rows(scores: Mapping[str, PredictorScore]) -> list[list[str]]:
    """The row that compares with the constant predictor."""
    ratios = (
        interval_text(score.ratio_to_constant, score.ratio_to_constant_interval)
        for score in scores.values()
    )
    return [["ratio", *ratios]]


def _title(text: str, scores: Mapping[str, PredictorScore]) -> list[str]:
    return [text, *([""] * len(scores))]
