"""Compare the prediction error of all six variants with that of the baselines. Takes hours.

    python benchmarks/variants.py                                    # trains what is missing
    python benchmarks/variants.py --variants mj-lat --seeds 1        # some of them
    python benchmarks/variants.py --set head.ordered=true            # another form of head

The script trains and evaluates each variant with the commands, in `runs/variants`, and reuses the
runs that are finished. It averages the errors of each held-out source over the training seeds.
The intervals are over groups of sources and not over seeds; the range over the seeds is a column of
its table. Viewers are SIMULATED.
"""

import argparse
import csv
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import laser_jnd, table, write_result

VARIANTS = ("lat", "rec", "e2e-lat", "e2e-rec", "mj-lat", "mj-rec")
CONSTANT = "constant"
COLUMNS = [
    "Predictor",
    "|ΔQP| JND1",
    "|ΔQP| JND2",
    "|ΔQP| JND3",
    "Mean |ΔQP|",
    "Ratio to constant",
    "Ratio by seed",
    "|ΔPSNR| (dB) JND1 / 2 / 3",
    "Parameters",
    "GMAC",
    "Training (s)",
]


@dataclass(frozen=True)
class Score:
    """Errors of one predictor.

    Attributes:
      errors: [N, 3], absolute error of each held-out source and level, mean over the seeds.
      psnr_errors: [N, 3], in dB.
      group_ids: [N], the group of each source.
      per_seed: mean error of each seed.
      seconds: training time of the variant's own stages, mean over the seeds; 0 for baselines.
    """

    errors: Any
    psnr_errors: Any
    group_ids: tuple[str, ...]
    per_seed: tuple[float, ...]
    seconds: float = 0.0


def make_dataset(folder: Path) -> Path:
    """Build the synthetic dataset of the demo."""
    laser_jnd("synthesize", "--output", str(folder / "videoset"), "--qps", "18,24,29,34,39,45")
    where = ("--manual-dir", str(folder / "videoset"), "--data-dir", str(folder / "data"))
    laser_jnd("build", "videoset_jnd", *where)
    return folder / "data"


def train_and_evaluate(
    variant: str, seed: int, data: Path, folder: Path, extra: list[str], first: Path | None
) -> Path:
    """Return a trained and evaluated run; `first` is a run to take the backbones from."""
    run = folder / "-".join([variant, f"seed{seed}", *(each.split("=")[0] for each in extra)])
    if (run / "results.json").exists():
        return run
    started = time.monotonic()
    options = [f"--set={each}" for each in extra]
    if first is not None and not variant.startswith("e2e"):
        options += ["--init-from", str(first)]
    where = ("--dataset", str(data), "--output", str(run))
    laser_jnd("train", variant, "--preset", "tiny", *where, "--seed", str(seed), *options)
    laser_jnd("evaluate", "--model", str(run), "--dataset", str(data))
    print(f"{run.name:<24} {time.monotonic() - started:6.0f} s", flush=True)
    return run


def own_seconds(run: Path, variant: str) -> float:
    """Return the training time of the stages that only this variant has."""
    total = 0.0
    for path in (run / "logs" / "metrics").glob(f"{variant}*.csv"):
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["metric"] == "seconds"]
        total += sum(float(row["value"]) for row in rows)
    return total


def scores_of(runs: dict[str, list[Path]]) -> dict[str, Score]:
    """Return the scores of each variant, and of the baselines, which are the same in all runs."""
    import numpy as np

    scores: dict[str, Score] = {}
    for variant, runs_of_variant in runs.items():
        tables: dict[str, list[Any]] = defaultdict(list)
        groups: tuple[str, ...] = ()
        for run in runs_of_variant:
            with (run / "predictions.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            groups = tuple(row["group_id"] for row in rows[::3])  # a row per level
            for name in json.loads((run / "results.json").read_text())["predictors"]:
                errors = [[_number(row[name]) - _number(row["true"]) for row in rows]]
                errors.append([_number(row[f"{name}_abs_psnr_error_db"]) for row in rows])
                tables[name].append(np.abs(np.array(errors)).reshape(2, -1, 3))
        for name, errors_by_seed in tables.items():
            if name in scores:
                continue
            mean = np.mean(errors_by_seed, axis=0)
            is_own = name == variant
            seconds = [own_seconds(run, variant) for run in runs_of_variant] if is_own else [0]
            per_seed = tuple(float(np.nanmean(each[0])) for each in errors_by_seed)
            scores[name] = Score(mean[0], mean[1], groups, per_seed, float(np.mean(seconds)))
    return scores


def rows_of(scores: dict[str, Score]) -> list[list[Any]]:
    """Return a row of `COLUMNS` for each predictor."""
    import numpy as np

    from laser_dist.evaluation.intervals import mean_intervals

    base = np.nanmean(scores[CONSTANT].errors)
    rows = []
    for name, score in scores.items():
        intervals = mean_intervals(score.errors, score.group_ids)
        levels = [
            f"{mean:.2f} ({low:.2f}–{high:.2f})"
            for mean, (low, high) in zip(np.nanmean(score.errors, axis=0), intervals, strict=True)
        ]
        mean = float(np.nanmean(score.errors))
        by_seed = f"{min(score.per_seed) / base:.2f}–{max(score.per_seed) / base:.2f}"
        psnr = " / ".join(f"{value:.2f}" for value in np.nanmean(score.psnr_errors, axis=0))
        size = cost_of(name) if name in VARIANTS else (None, None)
        seconds = round(score.seconds) or None
        label = f"`{name}`" if name in VARIANTS else name
        ratio = round(mean / base, 2)
        rows.append([label, *levels, round(mean, 2), ratio, by_seed, psnr, *size, seconds])
    return rows


def cost_of(name: str) -> tuple[str, float]:
    """Return the parameters, and the GMAC per frame, of a variant that predicts all levels."""
    from laser_dist.models.complexity import predictor_cost
    from laser_dist.models.variants import variant_named
    from laser_dist.training.config import tiny

    variant = variant_named(name)
    config = tiny(variant)
    cost = predictor_cost(variant, config.backbone, config.head) * (3 // variant.num_levels)
    return f"{cost.parameters:,}", round(cost.macs / 1e9, 2)


def _number(text: str) -> float:
    return float(text) if text else float("nan")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (%(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="extra", metavar="PATH=VALUE")
    parser.add_argument("--dataset", type=Path, help="prepared dataset (default: build it)")
    parser.add_argument("--output", type=Path, default=Path("runs") / "variants")
    arguments = parser.parse_args()
    data = arguments.dataset or make_dataset(arguments.output)
    runs: dict[str, list[Path]] = defaultdict(list)
    for seed in range(arguments.seeds):
        first = None
        # mj-lat first: the other variants reuse its backbones.
        for variant in sorted(arguments.variants, key=lambda name: name != "mj-lat"):
            run = train_and_evaluate(variant, seed, data, arguments.output, arguments.extra, first)
            first = run if variant == "mj-lat" else first
            runs[variant].append(run)
    scores = scores_of({name: runs[name] for name in VARIANTS if name in runs})
    form = f", {', '.join(arguments.extra)}" if arguments.extra else ""
    caption = (
        f"{len(scores[CONSTANT].errors)} test clips of the demo's synthetic dataset, tiny preset, "
        f"{arguments.seeds} seeds{form}"
    )
    best = min(scores, key=lambda name: sum(scores[name].per_seed))
    write_result(
        "variants",
        title="Compare the predictors",
        simulated=True,
        summary=f"`{best}` has the smallest mean error.",
        tables=[table(caption, COLUMNS, rows_of(scores))],
        notes=[
            "The settings were tuned on these test clips.",
            "Errors of a clip are averaged over the seeds. The 95% intervals are over groups. "
            '"Ratio by seed" is the lowest and highest ratio of a single seed.',
            "Training times cover the stages of the variant itself, without shared backbones.",
        ],
    )


if __name__ == "__main__":
    main()
