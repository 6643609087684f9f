"""Fake sources, predictions and reports for the tests; no number here was measured.

To look at the report without a trained model, run
`python tests/evaluation/evaluation_fakes.py page.html`.
"""

import io
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import norm
from sklearn.datasets import load_sample_images

from laser_dist.evaluation import report
from laser_dist.evaluation.baselines import CONSTANT, baseline_predictions
from laser_dist.evaluation.dataset import DatasetInfo, LevelFrames, SourceTable, present_samples
from laser_dist.evaluation.example_clips import choose_examples, example_clip, thumbnails
from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.provenance import Provenance
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.evaluation.results import EvaluationResults, Predictions, assess
from laser_dist.evaluation.sur_metrics import constant_sur, network_sur
from laser_dist.evaluation.trained_run import Curve
from laser_dist.jnd.scale import QP, Scale

MODEL = "mj-lat"
VIEWERS_SPREAD = 2.5
PROVENANCE = Provenance(
    run="runs/demo/run",
    command="laser-jnd evaluate --model runs/demo/run",
    commit="0123456789abcdef0123456789abcdef01234567",
    settings={"seed": 0},
    packages={"laser-jnd": "0.1.0", "keras": "3.15.1"},
    hardware="2 cores of x86_64, no GPU",
    date="2026-01-31T12:00:00+00:00",
)


def make_sources(num_sources: int, *, seed: int = 0, first: int = 1, noise: float = 1.0):
    """Return sources whose levels are linear in SI and TI plus `noise`; three per group."""
    rng = np.random.default_rng(seed)
    activity = rng.uniform((20, 0), (90, 40), size=(num_sources, 2))
    base = 20 + 0.08 * activity[:, :1] + 0.06 * activity[:, 1:]
    levels = base + np.array([4.0, 8.5, 12.0]) + noise * rng.normal(size=(num_sources, 3)) * 1.8
    numbers = range(first, first + num_sources)
    return SourceTable(
        source_ids=tuple(f"videoSRC{number:03d}" for number in numbers),
        group_ids=tuple(f"photo{number // 3:02d}" for number in numbers),
        levels=np.rint(levels) if noise else levels,
        activity=activity,
    )


def with_viewers(sources: SourceTable, *, scale: Scale = QP, num_viewers: int = 30) -> SourceTable:
    """Return the same sources with samples of viewers, quantiles of a normal distribution."""
    ranks = (np.arange(num_viewers) + 0.5) / num_viewers
    sign = 1 if scale.higher_is_worse else -1
    beyond = VIEWERS_SPREAD * (norm.ppf(ranks) + norm.ppf(0.75))
    samples = tuple(
        present_samples(row, [np.rint(np.nan_to_num(level) + sign * beyond) for level in row])
        for row in sources.levels
    )
    return replace(sources, viewer_samples=samples)


def make_curve(slope: float = 0.6, *, scale: Scale = QP) -> QualityCurve:
    quantizers = np.arange(scale.lowest, scale.highest + 1.0)
    coarseness = quantizers if scale.higher_is_worse else scale.highest - quantizers
    # The size halves every 6 QP, as a rule of thumb for H.264.
    seconds = 5.0 if scale is QP else float("nan")
    bits = 1e7 * 2 ** (-coarseness / 6)
    return QualityCurve(quantizers, 58.0 - slope * coarseness, bits, seconds)


def make_curves(*tables: SourceTable, scale: Scale = QP) -> dict[str, QualityCurve]:
    """Return curves by source id: busier sources need more bits."""
    curve = make_curve(scale=scale)
    return {
        source_id: replace(curve, num_bits=curve.num_bits * (1 + spatial))
        for table in tables
        for source_id, spatial in zip(table.source_ids, table.activity[:, 0], strict=True)
    }


def make_info(**changes) -> DatasetInfo:
    info = DatasetInfo(
        name="videoset_jnd",
        version="1.0.0",
        config="synthetic",
        fingerprint="3f6c0d9a51b2e874",
        simulated=True,
        simulation="30 viewers per clip: a visibility model of masking by texture and motion, with"
        " a sensitivity and a lapse rate for each viewer",
        level_definition="the QP at which a quarter of the viewers notice",
        seed=7,
        split_by="film",
    )
    return replace(info, **changes)


def with_gaps(sources: SourceTable, *gaps: tuple[int, int]) -> SourceTable:
    """Return the same sources without these levels (row, level from 0)."""
    levels = sources.levels.astype(np.float64)
    for gap in gaps:
        levels[gap] = np.nan
    return replace(sources, levels=levels)


@cache
def make_baselines(num_sources: int, scale: Scale) -> dict[str, np.ndarray]:
    """Return the baselines' predictions for `make_results`; cached, as fitting trees is slow."""
    train = make_sources(90, seed=1, first=1)
    test = make_sources(num_sources, seed=2, first=201)
    return baseline_predictions(train, test, make_curves(train, test, scale=scale), scale)


def make_results(
    num_sources: int = 42,
    *,
    skill: float = 0.5,
    gaps=(),
    model: str = MODEL,
    levels: tuple[int, ...] = (1, 2, 3),
    spread: float | None = None,
    **info_changes,
) -> EvaluationResults:
    """Return results of a network that predicts `skill` of the variation, and a fixed spread."""
    train = make_sources(90, seed=1, first=1)
    test = make_sources(num_sources, seed=2, first=201)
    noise = np.random.default_rng(3).normal(size=test.levels.shape)
    center = test.levels.mean(axis=0)
    predicted = center + skill * (test.levels - center) + 1.6 * noise * (1.2 - skill)
    splits = {"train": train.source_ids, "validation": (), "test": test.source_ids}
    info_changes = {"splits": splits} | info_changes
    info = make_info(**info_changes)
    test = with_gaps(test, *gaps)
    spreads, sur = None, {}
    if spread is not None:
        train, test = (with_viewers(table, scale=info.scale) for table in (train, test))
        is_predicted = np.isin([1, 2, 3], levels)
        known = np.where(is_predicted, predicted, np.nan)
        spreads = np.where(is_predicted, np.full_like(predicted, spread), np.nan)
        sur = {
            model: network_sur(known, spreads, info.scale),
            CONSTANT: constant_sur(train, num_sources, info.scale),
        }
    return assess(
        test,
        make_curves(test, scale=info.scale),
        Predictions({model: predicted, **make_baselines(num_sources, info.scale)}, spreads, sur),
        dataset=info,
        levels=levels,
        provenance=PROVENANCE,
    )


def make_learning_curves(num_epochs: int = 12) -> tuple[Curve, ...]:
    epochs = np.arange(1, num_epochs + 1)
    rng = np.random.default_rng(4)

    def curve(stage: str, metric: str, start: float, end: float) -> Curve:
        values = end + (start - end) * np.exp(-epochs / 3) * (
            1 + 0.05 * rng.normal(size=num_epochs)
        )
        return Curve(stage=stage, metric=metric, epochs=epochs, values=values)

    stages = [
        ("image", 900.0, 40.0),
        ("jnd1", 70.0, 38.0),
        ("jnd2", 80.0, 45.0),
        ("jnd3", 90.0, 52.0),
    ]
    curves = [
        curve(stage, metric, start * factor, end * factor)
        for stage, start, end in stages
        for metric, factor in (("loss", 1.0), ("val_loss", 1.1))
    ]
    heads = [
        (f"{prefix}{name}", start, end)
        for name in ("loss", "jnd1", "jnd2", "jnd3")
        for prefix, start, end in (("", 3.2, 1.3), ("val_", 3.0, 1.7))
    ]
    heads.append(("learning_rate", 1e-3, 1e-5))
    return (*curves, *(curve("heads", *one) for one in heads))


def make_frames(source_id: str, *, width: int = 32, height: int = 16, photo: int = 0):
    """Return a photograph and three JPEGs of it in place of the encoded frames."""
    image = Image.fromarray(load_sample_images().images[photo]).resize((width, height))
    encoded = [_jpeg(image, quality) for quality in (60, 30, 15)]
    return LevelFrames(source_id, 4, np.asarray(image), np.stack(encoded))


def render(results: EvaluationResults, **size) -> str:
    """Render a report with learning curves and example clips."""
    steps = {1: 8, 2: 16, 3: 32}
    backbones = {
        level: lambda raw, step=steps[level]: raw // step * step for level in results.levels
    }
    chosen = choose_examples(mean_of_present(results.network.abs_errors, axis=1))
    examples = [
        example_clip(
            results,
            rank,
            row,
            make_frames(results.test.source_ids[row], photo=number % 2, **size),
            backbones,
            make_curve(),
        )
        for number, (rank, row) in enumerate(chosen.items())
    ]
    frames = make_frames("", **size).raw
    pictures = thumbnails([(one, frames) for one in results.test.source_ids])
    return report.render(results, make_learning_curves(), examples, pictures)


def _jpeg(image: Image.Image, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


if __name__ == "__main__":
    page = render(make_results(spread=2.5), width=320, height=176)
    Path(sys.argv[1]).write_text(page, encoding="utf-8")
