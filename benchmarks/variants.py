"""All six predictors on the demo's synthetic dataset, over seeds, beside plain ones. Takes hours.

    python benchmarks/variants.py                                    # builds what is not there
    python benchmarks/variants.py --variants mj-lat --seeds 1        # some of it
    python benchmarks/variants.py --set head.ordered=true            # another form of head

Each is trained and evaluated by the commands, in `runs/variants`; what lies there is taken over.
Errors are of held-out sources, averaged over the seeds of training before they are resampled, so
an interval tells of the sources and not of the seeds; the spread over seeds stands beside it.
Viewers are SIMULATED.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIANTS = ("lat", "rec", "e2e-lat", "e2e-rec", "mj-lat", "mj-rec")
CONSTANT = "constant"


@dataclass(frozen=True)
class Score:
    """Of one predictor.

    Attributes:
      errors: [N, 3], absolute error of each held-out source and level, mean over the seeds.
      psnr_errors: [N, 3], in dB.
      per_seed: mean error of each seed.
      seconds: of the training of its own stages, mean over the seeds; 0 of plain predictors.
    """

    errors: Any
    psnr_errors: Any
    per_seed: tuple[float, ...]
    seconds: float = 0.0


def laser_jnd(*arguments: str) -> None:
    """Runs a command as a user does."""
    command = [sys.executable, "-m", "laser_dist.commands.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"status {done.returncode} of: {' '.join(arguments)}\n{done.stderr[-2000:]}")


def make_dataset(folder: Path) -> Path:
    """The demo's own synthetic dataset, built."""
    laser_jnd(
        *("synthesize", "--output", str(folder / "videoset")),
        *("--qps", "18,24,29,34,39,45"),
    )
    where = ("--manual-dir", str(folder / "videoset"), "--data-dir", str(folder / "data"))
    laser_jnd("build", "videoset_jnd", *where)
    return folder / "data"


def train_and_evaluate(variant: str, seed: int, data: Path, folder: Path, extra: list[str]) -> Path:
    """A finished and evaluated run."""
    run = folder / "-".join([variant, f"seed{seed}", *(each.split("=")[0] for each in extra)])
    if (run / "results.json").exists():
        return run
    started = time.monotonic()
    settings = [f"--set={each}" for each in extra]
    where = ("--dataset", str(data), "--output", str(run))
    laser_jnd("train", variant, "--preset", "tiny", *where, "--seed", str(seed), *settings)
    laser_jnd("evaluate", "--model", str(run), "--dataset", str(data))
    print(f"{run.name:<24} {time.monotonic() - started:6.0f} s", flush=True)
    return run


def own_seconds(run: Path, variant: str) -> float:
    """Training time of the stages that are this variant's alone."""
    total = 0.0
    for path in (run / "logs" / "metrics").glob(f"{variant}*.csv"):
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["metric"] == "seconds"]
        total += sum(float(row["value"]) for row in rows)
    return total


def scores_of(runs: dict[str, list[Path]]) -> dict[str, Score]:
    """Of every variant, and of the plain predictors, which are the same for all."""
    import numpy as np

    scores: dict[str, Score] = {}
    for variant, of_variant in runs.items():
        tables: dict[str, list[Any]] = defaultdict(list)
        for run in of_variant:
            with (run / "predictions.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            for name in json.loads((run / "results.json").read_text())["predictors"]:
                errors = [[_number(row[name]) - _number(row["true"]) for row in rows]]
                errors.append([_number(row[f"{name}_abs_psnr_error_db"]) for row in rows])
                tables[name].append(np.abs(np.array(errors)).reshape(2, -1, 3))
        for name, of_name in tables.items():
            if name in scores:
                continue
            mean = np.mean(of_name, axis=0)
            seconds = [own_seconds(run, variant) for run in of_variant] if name == variant else [0]
            per_seed = tuple(float(np.nanmean(each[0])) for each in of_name)
            scores[name] = Score(mean[0], mean[1], per_seed, float(np.mean(seconds)))
    return scores


def tell(scores: dict[str, Score]) -> None:
    """Prints a row for each predictor."""
    import numpy as np

    from laser_dist.evaluation.metrics import bootstrap_interval

    base = np.nanmean(scores[CONSTANT].errors)
    print(
        "| predictor | \\|ΔQP\\| JND1 | JND2 | JND3 | mean | of the constant | over seeds "
        "| \\|ΔPSNR\\| dB | parameters | GMAC | training |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, score in scores.items():
        intervals = bootstrap_interval(score.errors, seed=0)
        levels = [
            f"{mean:.2f} ({low:.2f}–{high:.2f})"
            for mean, (low, high) in zip(np.nanmean(score.errors, axis=0), intervals, strict=True)
        ]
        mean = np.nanmean(score.errors)
        spread = f"{min(score.per_seed) / base:.2f}–{max(score.per_seed) / base:.2f}"
        psnr = " / ".join(f"{value:.2f}" for value in np.nanmean(score.psnr_errors, axis=0))
        size = cost_of(name) if name in VARIANTS else ("", "")
        time_text = f"{score.seconds:.0f} s" if score.seconds else ""
        cells = [name, *levels, f"{mean:.2f}", f"{mean / base:.2f}", spread, psnr, *size, time_text]
        print(f"| {' | '.join(cells)} |", flush=True)


def cost_of(name: str) -> tuple[str, str]:
    """Parameters and GMAC of a frame, of all three levels."""
    from laser_dist.models.autoencoder import build_autoencoder
    from laser_dist.models.complexity import count_macs
    from laser_dist.models.heads import build_head
    from laser_dist.models.predictor_spec import PredictorSpec
    from laser_dist.models.predictors import build_predictor
    from laser_dist.models.variants import variant_named
    from laser_dist.training.config import tiny

    variant = variant_named(name)
    config = tiny(variant)
    backbones = [build_autoencoder(config.backbone, f"b{k}") for k in (1, 2, 3)]
    shape = variant.feature_shape(config.backbone)
    count = 1 if variant.num_levels == 3 else 3
    heads = [
        build_head(config.head, shape, levels=variant.num_levels, name=f"h{k}")
        for k in range(count)
    ]
    answer = PredictorSpec(variant=name, levels=(1, 2, 3), scale="QP", simulated=True)
    model = build_predictor(backbones, heads, answer)
    return f"{model.count_params():,}", f"{count_macs(model) / 1e9:.2f}"


def _number(text: str) -> float:
    return float(text) if text else float("nan")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="extra", metavar="PATH=VALUE")
    parser.add_argument("--dataset", type=Path, help="built already (default: made)")
    parser.add_argument("--output", type=Path, default=Path("runs") / "variants")
    arguments = parser.parse_args()
    data = arguments.dataset or make_dataset(arguments.output)
    runs: dict[str, list[Path]] = defaultdict(list)
    for seed in range(arguments.seeds):
        # Those whose backbones others take over first.
        for variant in sorted(arguments.variants, key=lambda name: name != "mj-lat"):
            run = train_and_evaluate(variant, seed, data, arguments.output, arguments.extra)
            runs[variant].append(run)
    tell(scores_of({name: runs[name] for name in VARIANTS if name in runs}))


if __name__ == "__main__":
    main()
