"""Measure how often clips are encoded more coarsely than viewers allow, and what a margin costs.

    python benchmarks/margins.py runs/accuracy/mj-lat-seed* --dataset runs/accuracy/data

The folders are those of `laser-jnd crossval`, one per seed, such as `benchmarks/accuracy.py`
writes; it takes a minute. Each clip is predicted by the model of its fold, which has not learned
from its photograph, and the errors of the default margin come from the other folds. Each clip
is encoded at the QP that `laser-jnd encode` plans: the predicted JND1, less the margin, rounded
down. Its size comes from the quality table of the dataset. Viewers are SIMULATED.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from results import table, write_result

CONSTANT = "constant"
STEP = 0.1  # of the constant's margin in QP


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predicted JND1 of N clips, each without its photograph.

    Attributes:
      groups: [N] photograph of each clip.
      true: [N, 1] JND1 of the viewers, QP.
      predicted: predictor to [N, 1], QP.
      margin: [N, 1] the default margin of each clip, QP.
      curves: [N] size of each clip by QP.
    """

    groups: list[str]
    true: np.ndarray
    predicted: dict[str, np.ndarray]
    margin: np.ndarray
    curves: list[Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What coding all clips at some QPs gives.

    Attributes:
      overshoot: share of clips encoded above the viewers' JND1.
      extra_bits: mean of (bits / bits at the viewers' JND1 - 1).
      bits: size of all clips.
      outside: share of clips encoded finer than the finest QP of the quality table, whose size is
        that of the finest.
    """

    overshoot: float
    extra_bits: float
    bits: float
    outside: float


def read(folder: Path, dataset_dir: Path) -> tuple[str, Predicted]:
    """Return the name of the model, and the predictions of a cross-validation."""
    from laser_dist.encoding.plan import OVERSHOOT
    from laser_dist.evaluation.dataset import TfdsDataset
    from laser_dist.evaluation.quality_curves import read_quality_curves
    from laser_dist.evaluation.trained_run import dataset_record
    from laser_dist.jnd.calibration import Residuals
    from laser_dist.training.runs import load_run

    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    model = next(iter(document["predictors"]))
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["jnd_index"] == "1"]
    fold_of: dict[str, int] = {}
    for number, path in enumerate(sorted(folder.glob("fold-*"))):
        splits = dataset_record(load_run(path).config, path)["splits"]
        fold_of |= dict.fromkeys(splits["test"], number)
    ids = [row["source_id"] for row in rows]

    def column(name: str) -> np.ndarray:
        return np.array([[float(row[name])] for row in rows])

    groups, folds = [row["group_id"] for row in rows], np.array([fold_of[each] for each in ids])
    errors, margins = column(model) - column("true"), np.zeros((len(rows), 1))
    for fold in np.unique(folds):
        others = np.flatnonzero(folds != fold)
        residuals = Residuals.of_clips(errors[others], [groups[row] for row in others])
        margins[folds == fold] = max(0.0, float(residuals.margins(1 - OVERSHOOT)[0]))
    dataset = TfdsDataset(dataset_dir)
    table_of = read_quality_curves(dataset.quality_path, ids, dataset.info.scale)
    predicted = {name: column(name) for name in (model, CONSTANT)}
    curves = [table_of[each] for each in ids]
    return model, Predicted(groups, column("true"), predicted, margins, curves)


def encoded_qps(levels: np.ndarray) -> np.ndarray:
    """Return the QP that each level is encoded at."""
    from laser_dist.jnd.scale import QP

    return np.vectorize(QP.quantizer_at, otypes=[float])(levels)


def outcome(clips: Predicted, qps: np.ndarray) -> Outcome:
    """Return what coding the clips at QPs [N, 1] gives."""
    from laser_dist.evaluation.metrics import level_bits, margin_curve
    from laser_dist.jnd.scale import QP

    curve = margin_curve(qps, clips.true, scale=QP, curves=clips.curves)
    finest = np.array([[each.finest(QP)] for each in clips.curves])
    return Outcome(
        overshoot=1 - curve.safe[0][0],
        extra_bits=curve.extra_bits[0][0],
        bits=float(level_bits(clips.curves, qps).sum()),
        outside=float((qps < finest).mean()),
    )


def constant_at(clips: Predicted, overshoot: float) -> tuple[float, Outcome]:
    """Return the smallest margin of the constant with at most this share, and what it gives."""
    margin = 0.0
    while True:
        found = outcome(clips, encoded_qps(clips.predicted[CONSTANT] - margin))
        if found.overshoot <= overshoot:
            return margin, found
        margin += STEP


def row_of(name: str, model: str, clips: Predicted) -> list[Any]:
    """Return the row of a cross-validation: what the default margin gives, and the constant."""
    from laser_dist.encoding.plan import OVERSHOOT
    from laser_dist.evaluation.intervals import mean_interval

    qps = encoded_qps(clips.predicted[model] - clips.margin)
    default = outcome(clips, qps)
    interval = mean_interval(qps > clips.true, clips.groups)
    lowered, constant = constant_at(clips, default.overshoot)
    errors = clips.predicted[model] - clips.true
    return [
        name,
        round(float(clips.margin.mean()), 2),
        f"{percent(default.overshoot)} ({percent(interval[0])} to {percent(interval[1])})",
        percent(default.extra_bits),
        round(lowered, 1),
        percent(constant.overshoot),
        percent(constant.extra_bits),
        percent(1 - default.bits / constant.bits),
        percent(1 - (1 + default.extra_bits) / (1 + constant.extra_bits)),
        round(float(np.quantile(errors, 1 - OVERSHOOT)), 2),
    ]


def curve_row(margin: int, model: str, found: list[Predicted]) -> list[Any]:
    """Return the row of a margin: what it gives with the model, and with the constant."""
    row: list[Any] = [margin]
    for name in (model, CONSTANT):
        each = [outcome(clips, encoded_qps(clips.predicted[name] - margin)) for clips in found]
        for part in ("overshoot", "extra_bits", "outside"):
            row.append(percent(float(np.mean([getattr(one, part) for one in each]))))
    return row


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{share:.1%}"


def main() -> None:
    """Run the script."""
    from laser_dist.encoding.plan import OVERSHOOT
    from laser_dist.evaluation.metrics import MARGINS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="cross-validations, one per seed")
    parser.add_argument("--dataset", required=True, type=Path, help="prepared dataset")
    arguments = parser.parse_args()
    (dataset_dir,) = (path.parent for path in arguments.dataset.rglob("dataset_info.json"))
    pairs = [read(folder, dataset_dir) for folder in arguments.folders]
    model, found = pairs[0][0], [clips for _, clips in pairs]
    rows = [
        row_of(folder.name, model, clips)
        for folder, clips in zip(arguments.folders, found, strict=True)
    ]
    parts = ("clips above their JND1", "bits above those at JND1", "finer than measured")
    write_result(
        "margins",
        title="Margin of encode",
        simulated=True,
        summary=f"With the default margin, {rows[0][2]} of the clips are encoded above their JND1."
        f" They take {rows[0][7]} fewer bits than the constant needs for that share.",
        tables=[
            table(
                f"JND1 of {len(found[0].groups)} clips, less the default margin of {model}",
                [
                    "Cross-validation",
                    "Margin (QP)",
                    "Clips above their JND1",
                    "Bits above those at JND1",
                    "Margin of the constant (QP)",
                    "Its clips above their JND1",
                    "Its bits above those at JND1",
                    "Fewer bits, all clips",
                    "Fewer bits, mean clip",
                    "90% quantile of the error (QP)",
                ],
                rows,
            ),
            table(
                "Other margins, mean over the cross-validations",
                [
                    "Margin (QP)",
                    *(f"{name}: {part}" for name in (model, CONSTANT) for part in parts),
                ],
                [curve_row(margin, model, found) for margin in MARGINS],
            ),
        ],
        notes=[
            "A clip is encoded at the predicted JND1, less the margin, rounded down to a QP. The"
            " default margin follows from the errors of the other folds. It is meant for"
            f" {OVERSHOOT:.0%} of clips without rounding."
            " JND1 is a whole QP, so rounding down is as safe as 1 QP more of margin.",
            "The constant is the median JND1 of the training clips. Its margin is the smallest one,"
            f" in steps of {STEP} QP, with which no more of its clips are above their JND1.",
            "Bits are from the quality table of the dataset, interpolated between its QPs. A QP"
            " finer than measured counts as the finest one, so bits of large margins are too few.",
            "`Fewer bits, all clips` compares the size of all clips together; `mean clip` compares"
            " the means of the bits of each clip divided by those at its JND1.",
            "Intervals are 95% intervals over photographs.",
        ],
    )


if __name__ == "__main__":
    main()
