"""`laser-jnd reproduce`: evaluates all variants on VideoSet, next to the published figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from laser_dist import api
from laser_dist.commands import build, evaluate, train
from laser_dist.commands.build_request import BuildOptions, resolve
from laser_dist.commands.datasets import RESOLUTIONS, VIDEOSET
from laser_dist.commands.terminal import Terminal
from laser_dist.commands.training_progress import TerminalFollower
from laser_dist.jnd.scale import NUM_LEVELS
from laser_dist.models.variants import (
    MJ_LAT,
    PUBLISHED_JND1_ERROR_QP,
    PUBLISHED_JND1_PSNR_ERROR_DB,
    VARIANTS,
)
from laser_dist.training.config import from_dict
from laser_dist.wording import count_text, interval_text, number_text

if TYPE_CHECKING:
    from laser_dist.evaluation.metrics import PredictorScore
    from laser_dist.evaluation.results import EvaluationResults

HELP = "build VideoSet, train all six variants and compare them with the published figures"
EXAMPLE = """\
examples:
  laser-jnd reproduce --manual-dir ~/VideoSet --config 1080p --output runs/reproduction
  laser-jnd reproduce --manual-dir runs/videoset --preset tiny --output runs/small
"""
TABLE = "reproduction.md"
LEVELS = tuple(f"JND{level}" for level in range(1, NUM_LEVELS + 1))
MISSING = "not available"
LABEL_NOISE = "label noise"
PUBLISHED = "published"
SIMULATED = (
    "**The viewers are SIMULATED: the figures say nothing about people, and cannot be compared "
    "with the published ones.**"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--manual-dir",
        required=True,
        metavar="PATH_OR_URL",
        help="folder or bucket (gs://, s3://) of VideoSet's clips and labels",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="PATH_OR_URL",
        help="folder or location in a bucket (gs://, s3://) for the dataset, a run of each variant "
        "and the results; what is finished there is reused",
    )
    parser.add_argument(
        "--config",
        choices=tuple(RESOLUTIONS),
        help="resolution (default: the one that fits the files)",
    )
    parser.add_argument(
        "--split-by",
        choices=("source", "film"),
        default="source",
        help="group that splits keep together: the clips of one source, as in the literature "
        "(default), or of one film, a harder test",
    )
    train.add_settings(parser)


def run(arguments: argparse.Namespace) -> None:
    """Build, train and evaluate what is missing, and write the table."""
    from laser_dist.storage import check_writable, join, write_text
    from laser_dist.training.ray_entry import check_gpus_here
    from laser_dist.training.runs import start_run
    from laser_dist.training.session import load_pretrained, train_runs

    terminal, output = Terminal(), arguments.output
    trainings = {variant: train.settings_of(arguments, variant) for variant in VARIANTS}
    check_gpus_here(from_dict(trainings[MJ_LAT]).cluster)  # before hours of building
    with terminal.progress() as show:
        show("listing the files; each .tar.gz is scanned once")
        resolved = resolve(
            BuildOptions(
                dataset=VIDEOSET,
                manual_dir=arguments.manual_dir,
                data_dir=join(output, "data"),
                config=arguments.config,
                changes=(("split_by", arguments.split_by),),
            )
        )
    check_writable(output)
    dataset = build.build_or_reuse(terminal, resolved)
    stores = {variant: api.run_store(join(output, variant.name)) for variant in VARIANTS}
    configs = {
        variant: start_run(store, trainings[variant], dataset) for variant, store in stores.items()
    }
    # This variant has all backbones, and the others start from them.
    train_runs([(configs[MJ_LAT], stores[MJ_LAT])], follower=TerminalFollower(terminal))
    first = stores[MJ_LAT].location
    others = [variant for variant in VARIANTS if variant is not MJ_LAT]
    with terminal.progress() as show:
        backbones = load_pretrained(first, trainings[MJ_LAT], show)
    train_runs(
        [(configs[each], stores[each]) for each in others],
        pretrained=backbones,
        follower=TerminalFollower(terminal),
    )
    models = [store.location for store in stores.values()]
    results = evaluate.evaluate_models(terminal, dataset, models, output)
    write_text(join(output, TABLE), to_markdown(results, arguments.preset or train.DEFAULT_PRESET))
    header, rows = table(results)
    # Two tables: one is too wide for a terminal.
    for columns in (slice(1, 1 + NUM_LEVELS), slice(1 + NUM_LEVELS, None)):
        titles, *own = ([row[0], *row[columns]] for row in (header, *rows))
        terminal.table(titles, evaluate.wrap_intervals(terminal.width, titles, [own]))
        terminal.say()
    if results.dataset.simulated:
        terminal.say(evaluate.SIMULATED)
    terminal.pairs([("table", join(output, TABLE)), *evaluate.written(output)])


def table(results: EvaluationResults) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows: the variants, the baselines, label noise and the paper."""
    scale = results.dataset.scale.name
    header = [
        "",
        *(f"|Δ{scale}| {level}" for level in LEVELS),
        *(f"|ΔPSNR| {level}" for level in LEVELS),
    ]
    rows = [[name, *_cells(result.score)] for name, result in results.predictors.items()]
    noise = [number_text(value) for value in results.label_noise]
    rows.append([LABEL_NOISE, *noise, *[MISSING] * NUM_LEVELS])
    others = [MISSING] * (NUM_LEVELS - 1)
    error = number_text(PUBLISHED_JND1_ERROR_QP)
    psnr_error = number_text(PUBLISHED_JND1_PSNR_ERROR_DB, " dB")
    rows.append([PUBLISHED, error, *others, psnr_error, *others])
    return header, rows


def _cells(score: PredictorScore) -> list[str]:
    errors = zip(score.abs_error, score.abs_error_interval, strict=True)
    return [
        *(interval_text(error, interval) for error, interval in errors),
        *(number_text(error, " dB") for error in score.abs_psnr_error_db),
    ]


def to_markdown(results: EvaluationResults, preset: str) -> str:
    """Return the table as a Markdown document that states how its figures were made."""
    header, rows = table(results)
    dataset = results.dataset
    clips = count_text(results.num_sources, "held-out clip")
    lines = [
        "# LASeR-JND: all variants",
        "",
        f"Mean absolute errors of {clips} in {count_text(results.num_groups, 'group')}, with 95% "
        f"intervals over the groups. Dataset: {dataset.full_name}, split by {dataset.split_by}. "
        f"Preset: {preset}.",
        "",
        *([SIMULATED, ""] if dataset.simulated else []),
        *_markdown_rows([header, [":---", *["---:"] * (len(header) - 1)], *rows]),
        "",
        f'"{LABEL_NOISE.capitalize()}" is how far a level moves on average if its viewers are '
        f'resampled. "{PUBLISHED.capitalize()}" is the best three-level variant of the paper '
        "(LASeR-JND, IEEE TCSVT 2024) on VideoSet; its split is not published.",
    ]
    return "\n".join(lines) + "\n"


def _markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in escaped]
