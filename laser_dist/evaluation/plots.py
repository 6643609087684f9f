"""Plots of the report; each predictor has the same color, marker and line style in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    ScalarFormatter,
)

from laser_dist.evaluation.baselines import CONSTANT, ONE_ENCODE, RIDGE, TREES
from laser_dist.evaluation.results import EvaluationResults
from laser_dist.evaluation.sur_metrics import SurComparison, lossy_quantizers
from laser_dist.evaluation.svg import COLORS, STYLE, inline_svg, panel
from laser_dist.evaluation.trained_run import Curve

# Titles of the logged metrics that have a panel; other metrics are not drawn.
METRIC_TITLES = {
    "loss": "loss",
    "jnd1": "JND1 error",
    "jnd2": "JND2 error",
    "jnd3": "JND3 error",
    "frame": "frame error",
    "likelihood": "negative log-likelihood of the viewers",
}
_LOG_SCALE_FROM = 10.0  # ratio of the largest to the smallest value
_ALT_TEXT_ERROR = 2.0  # the alt text of an error distribution gives the fraction within this error
_MARGIN = 3  # quantizers shown on both sides of where SUR curves fall


@dataclass(frozen=True)
class PredictorStyle:
    """Name and drawing style of a predictor.

    Attributes:
      label: name in the report.
      color: a key of `COLORS`.
      marker: matplotlib marker.
      dash: matplotlib line style.
    """

    label: str
    color: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]


_BASELINE_STYLES = {
    CONSTANT: PredictorStyle("Constant", "constant", "s", (0, (5, 3))),
    RIDGE: PredictorStyle("SI/TI ridge", "ridge", "D", (0, (1.5, 2))),
    TREES: PredictorStyle("SI/TI trees", "trees", "^", (0, (7, 2, 1.5, 2))),
    ONE_ENCODE: PredictorStyle("One encode", "other", "v", (0, (4, 1.5))),
}


def predictor_style(name: str) -> PredictorStyle:
    """Return the style of a predictor; any name that is not a baseline's is the network."""
    return _BASELINE_STYLES.get(name) or PredictorStyle(name.upper(), "model", "o", "-")


@mpl.rc_context(STYLE)
def error_intervals(results: EvaluationResults) -> str:
    """Draw mean absolute errors with intervals: a row per predicted level, a mark per predictor."""
    figure, axes = panel(430, 250, left=50, right=10, top=4, bottom=44)
    shown = [level - 1 for level in results.levels]
    # The network's mark is at the top of each row, and larger.
    offsets = np.linspace(-0.26, 0.26, len(results.predictors))
    for (name, result), offset in zip(results.predictors.items(), offsets, strict=True):
        style, rows = predictor_style(name), np.arange(len(shown)) + offset
        low, high = np.array(result.score.abs_error_interval)[shown].T
        errors = np.array(result.score.abs_error)[shown]
        color, size = COLORS[style.color], 8.5 if name == results.model else 6.5
        axes.hlines(rows, low, high, color=color, linewidth=2.4, alpha=0.5)
        axes.plot(errors, rows, style.marker, color=color, markersize=size)
    for boundary in np.arange(len(shown) - 1) + 0.5:
        axes.axhline(boundary, color=COLORS["rule"], linewidth=0.8)
    axes.set_yticks(range(len(shown)), [level_name(level) for level in shown])
    axes.tick_params(axis="y", labelcolor=COLORS["ink"], labelsize=12)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"Mean absolute error with 95% interval, {results.dataset.scale.name}")
    description = (
        "Mean absolute error of each predictor at each level, with its 95% interval. The table"
        " next to it has the same numbers."
    )
    return inline_svg(figure, name="error-intervals", description=description)


def agreement(results: EvaluationResults) -> tuple[str, ...]:
    """Draw predicted against true levels: a panel per level that any clip has, a dot per clip."""
    pairs = {
        level: (results.test.levels[rows, level], results.network.predicted[rows, level])
        for level, rows in _clips_with(results).items()
    }
    # All panels have the same range, so that equal distances mean equal errors.
    ranges = [float(np.ptp(np.concatenate(both))) * 1.12 for both in pairs.values()]
    span = max([4.0, *ranges])
    return tuple(_agreement_panel(results, level, *both, span) for level, both in pairs.items())


@mpl.rc_context(STYLE)
def _agreement_panel(
    results: EvaluationResults, level: int, true: np.ndarray, predicted: np.ndarray, span: float
) -> str:
    name, scale = level_name(level), results.dataset.scale.name
    constant = float(results.predictors[CONSTANT].predicted[0, level])
    both = np.concatenate([true, predicted])
    center = (both.min() + both.max()) / 2
    limits = float(center - span / 2), float(center + span / 2)
    figure, axes = panel(330, 354, left=44, right=4, top=28, bottom=44)
    axes.plot(limits, limits, color=COLORS["ink"], linewidth=1.1)
    dash = predictor_style(CONSTANT).dash
    axes.axhline(constant, color=COLORS["constant"], linewidth=1.8, linestyle=dash)
    label = {"ha": "right", "va": "top", "color": COLORS["muted"], "fontsize": 11}
    axes.text(limits[1], constant - span / 60, f"constant {constant:.1f}", label)
    dots = {"color": COLORS["model"], "edgecolors": COLORS["paper"], "linewidths": 0.8}
    axes.scatter(true, predicted, s=34, alpha=0.7, zorder=3, **dots)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title=name)
    axes.set(xlabel=f"True {scale}", ylabel=f"Predicted {scale}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    description = (
        f"{name}: {scale} predicted by {predictor_style(results.model).label} against the true"
        f" {scale} of {len(true)} clips, {_correlation(true, predicted)}. A line marks exact"
        f" predictions, another the constant prediction {constant:.1f}."
    )
    return inline_svg(figure, name=f"agreement-{level + 1}", description=description)


def error_distribution(results: EvaluationResults) -> tuple[str, ...]:
    """Draw the cumulative distribution of the error: a panel per level, a line per predictor."""
    errors = {
        level: {name: one.abs_errors[rows, level] for name, one in results.predictors.items()}
        for level, rows in _clips_with(results).items()
    }
    largest = [float(values.max()) for each in errors.values() for values in each.values()]
    limit = max([1.0, *largest])
    return tuple(_distribution_panel(results, level, each, limit) for level, each in errors.items())


@mpl.rc_context(STYLE)
def _distribution_panel(
    results: EvaluationResults, level: int, errors: Mapping[str, np.ndarray], limit: float
) -> str:
    title, scale = level_name(level), results.dataset.scale.name
    figure, axes = panel(330, 256, left=52, right=4, top=28, bottom=44)
    for name, values in errors.items():
        axes.ecdf(values, **_line_style(results, name))
    axes.set(xlim=(0, limit), title=title)
    axes.set(xlabel=f"Absolute error, {scale}", ylabel="Clips with at most this error")
    _percent_axis(axes)
    fractions = ", ".join(
        f"{predictor_style(name).label} {np.mean(values <= _ALT_TEXT_ERROR):.0%}"
        for name, values in errors.items()
    )
    description = (
        f"{title}: cumulative distribution of the absolute error. Clips within"
        f" {_ALT_TEXT_ERROR:g} {scale}: {fractions}."
    )
    return inline_svg(figure, name=f"distribution-{level + 1}", description=description)


def sur_curves(results: EvaluationResults) -> tuple[str, ...]:
    """Draw the SUR curves of the clip with the median error: a panel per level.

    Empty if the network predicts no spread; a level without samples has no panel.
    """
    if results.sur is None:
        return ()
    distances = results.sur.predictors[results.model].distances
    return tuple(
        _sur_panel(results, results.sur, _median_row(column), level)
        for level, column in enumerate(distances.T)
        if np.isfinite(column).any()
    )


def _median_row(values: np.ndarray) -> int:
    """Return the row of the median, the lower one of two; NaN is ignored."""
    order = np.argsort(values, kind="stable")[: np.count_nonzero(np.isfinite(values))]
    return int(order[(len(order) - 1) // 2])


@mpl.rc_context(STYLE)
def _sur_panel(results: EvaluationResults, sur: SurComparison, row: int, level: int) -> str:
    scale = results.dataset.scale
    quantizers, viewers = lossy_quantizers(scale), sur.viewers[row, level]
    curves = {name: one.curves[row, level] for name, one in sur.predictors.items()}
    title = f"{level_name(level)}: {results.test.source_ids[row]}"
    figure, axes = panel(330, 256, left=52, right=4, top=28, bottom=44)
    axes.step(quantizers, viewers, where="mid", color=COLORS["ink"], linewidth=1.3)
    for name, values in curves.items():
        axes.plot(quantizers, values, **_line_style(results, name))
    axes.set(xlim=_falling_range(quantizers, [viewers, *curves.values()]), title=title)
    axes.set(xlabel=scale.name, ylabel="Satisfied viewers")
    _percent_axis(axes)
    errors = ", ".join(
        f"{predictor_style(name).label} {one.distances[row, level]:.2f}"
        for name, one in sur.predictors.items()
    )
    description = (
        f"{title}: satisfied-user ratio over {scale.name}, of the viewers and as predicted."
        f" Distance in {scale.name}: {errors}."
    )
    return inline_svg(figure, name=f"sur-{level + 1}", description=description)


def _falling_range(quantizers: np.ndarray, curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the range in which some but not all viewers are satisfied, with a margin."""
    falling = np.any([(curve > 0.01) & (curve < 0.99) for curve in curves], axis=0)
    shown = quantizers[falling] if falling.any() else quantizers
    low, high = int(shown[0]) - _MARGIN, int(shown[-1]) + _MARGIN
    return max(low, int(quantizers[0])), min(high, int(quantizers[-1]))


def learning_curves(curves: Iterable[Curve]) -> tuple[str, ...]:
    """Draw the learning curves: a panel per stage and metric, training and validation together."""
    by_panel: dict[tuple[str, str], dict[str, Curve]] = {}
    for curve in curves:
        metric = curve.metric.removeprefix("val_")
        if metric in METRIC_TITLES and len(curve.epochs) > 0:
            split = "validation" if curve.metric.startswith("val_") else "training"
            by_panel.setdefault((curve.stage, metric), {})[split] = curve
    return tuple(_learning_panel(*key, by_split) for key, by_split in by_panel.items())


@mpl.rc_context(STYLE)
def _learning_panel(stage: str, metric: str, by_split: Mapping[str, Curve]) -> str:
    title = f"{stage}: {METRIC_TITLES[metric]}"
    figure, axes = panel(256, 200, left=44, right=8, top=28, bottom=42)
    for split, curve in sorted(by_split.items()):  # validation on top
        color, width = (COLORS["other"], 1.5) if split == "training" else (COLORS["model"], 2.2)
        marker = "o" if len(curve.epochs) < 3 else ""  # the line of a single point is invisible
        axes.plot(curve.epochs, curve.values, color=color, lw=width, marker=marker, markersize=4)
    values = np.concatenate([curve.values for curve in by_split.values()])
    if values.min() > 0 and values.max() / values.min() > _LOG_SCALE_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_powerlimits((-3, 5))
        axes.yaxis.set_major_formatter(formatter)
    epochs = np.concatenate([curve.epochs for curve in by_split.values()])
    if epochs.min() == epochs.max():
        axes.set_xticks([int(epochs[0])])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set(title=title, xlabel="Epoch")
    last = "; ".join(
        f"{split} {curve.values[-1]:.4g}" for split, curve in sorted(by_split.items(), reverse=True)
    )
    description = f"Learning curve of stage {title}. Last epoch: {last}."
    return inline_svg(figure, name=f"learning-{stage}-{metric}", description=description)


def level_name(index: int) -> str:
    """Return a level's name, such as "JND1" for 0."""
    return f"JND{index + 1}"


def _clips_with(results: EvaluationResults) -> dict[int, np.ndarray]:
    """Return levels (from 0) that are predicted and present, with the rows that have them."""
    present = ~np.isnan(results.network.abs_errors)
    return {level: rows for level, rows in enumerate(present.T) if rows.any()}


def _line_style(results: EvaluationResults, name: str) -> dict[str, Any]:
    style = predictor_style(name)
    width = 2.4 if name == results.model else 1.8
    return {"color": COLORS[style.color], "linestyle": style.dash, "linewidth": width}


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _correlation(true: np.ndarray, predicted: np.ndarray) -> str:
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return "no correlation, because one of the two is constant"
    return f"correlation {np.corrcoef(true, predicted)[0, 1]:.2f}"
