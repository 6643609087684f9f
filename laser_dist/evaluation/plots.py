"""Plots of the report; each predictor has the same color, marker and line style in all of them."""

from __future__ import annotations

import math
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
from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.evaluation.results import EvaluationResults
from laser_dist.evaluation.sur_metrics import SurComparison, lossy_quantizers
from laser_dist.evaluation.svg import COLORS, STYLE, inline_svg, panel
from laser_dist.evaluation.trained_run import Curve
from laser_dist.jnd.scale import NUM_LEVELS

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
_MANY_TICKS_TO = 200.0  # ratio of the ends of a logarithmic axis, up to which it has many ticks
_LABELED_MARGINS = (0, 2, 4, 6)
_ACTIVITY_TITLES = ("Spatial information", "Temporal information")


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


# Networks share a color and differ in these; the first one is the evaluated network.
_NETWORK_LINES = (
    ("o", "-"),
    ("s", (0, (5, 1.5))),
    ("^", (0, (1.5, 1.5))),
    ("v", (0, (8, 2, 1.5, 2))),
    ("D", (0, (3, 3))),
)


def predictor_style(name: str, names: Iterable[str] = ()) -> PredictorStyle:
    """Return the style of a predictor; any name that is not a baseline's is a network.

    Args:
      name: of the predictor.
      names: of all predictors of the results, to tell several networks apart.
    """
    networks = [each for each in names if each not in _BASELINE_STYLES]
    index = networks.index(name) if name in networks else 0
    network = PredictorStyle(name.upper(), "model", *_NETWORK_LINES[index % len(_NETWORK_LINES)])
    return _BASELINE_STYLES.get(name, network)


@mpl.rc_context(STYLE)
def error_intervals(results: EvaluationResults) -> str:
    """Draw mean absolute errors with intervals: a row per predicted level, a mark per predictor."""
    figure, axes = panel(430, 250, left=50, right=10, top=4, bottom=44)
    shown = [level - 1 for level in results.levels]
    # The network's mark is at the top of each row, and larger.
    offsets = np.linspace(-0.26, 0.26, len(results.predictors))
    for (name, result), offset in zip(results.predictors.items(), offsets, strict=True):
        style = predictor_style(name, results.predictors)
        rows = np.arange(len(shown)) + offset
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
    """Draw predicted against true levels: a panel per level that two clips have, a dot per clip."""
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
    both = np.concatenate([true, predicted])
    center = (both.min() + both.max()) / 2
    limits = float(center - span / 2), float(center + span / 2)
    figure, axes = panel(330, 354, left=44, right=4, top=28, bottom=44)
    axes.plot(limits, limits, color=COLORS["ink"], linewidth=1.1)
    constants = np.unique(results.predictors[CONSTANT].predicted[:, level])
    if len(constants) == 1:  # it differs between the folds of a cross-validation
        dash = predictor_style(CONSTANT).dash
        axes.axhline(constants[0], color=COLORS["constant"], linewidth=1.8, linestyle=dash)
        label = {"ha": "right", "va": "top", "color": COLORS["muted"], "fontsize": 11}
        axes.text(limits[1], constants[0] - span / 60, f"constant {constants[0]:.1f}", label)
    dots = {"color": COLORS["model"], "edgecolors": COLORS["paper"], "linewidths": 0.8}
    axes.scatter(true, predicted, s=34, alpha=0.7, zorder=3, **dots)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title=name)
    axes.set(xlabel=f"True {scale}", ylabel=f"Predicted {scale}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    score = results.network.score
    found = [f"bias {signed(score.bias[level])}"]
    if np.isfinite(score.pearson[level]):
        slope = np.polyfit(true, predicted, 1)
        axes.plot(limits, np.polyval(slope, limits), color=COLORS["model"], linewidth=1.4)
        found += [f"r {number(score.pearson[level])}", f"slope {number(slope[0])}"]
    corner = {"ha": "left", "va": "top", "color": COLORS["ink"], "fontsize": 11.5}
    axes.text(limits[0] + span / 40, limits[1] - span / 60, "\n".join(found), corner)
    description = (
        f"{name}: {scale} predicted by {predictor_style(results.model).label} against the true"
        f" {scale} of {len(true)} clips: {', '.join(found)}."
    )
    return inline_svg(figure, name=f"agreement-{level + 1}", description=description)


def residuals(results: EvaluationResults) -> tuple[str, ...]:
    """Draw the signed error over the content: a panel for SI and one for TI, a dot per clip.

    The error of a clip is its mean over the levels. A feature that no two clips differ in, such as
    TI of images, has no panel.
    """
    errors = mean_of_present(results.network.predicted - results.test.levels, axis=1)
    present = np.isfinite(errors)
    features = zip(_ACTIVITY_TITLES, results.test.activity[present].T, strict=True)
    return tuple(
        _residual_panel(results, title, values, errors[present])
        for title, values in features
        if len(values) > 1 and np.ptp(values) > 0
    )


@mpl.rc_context(STYLE)
def _residual_panel(
    results: EvaluationResults, title: str, values: np.ndarray, errors: np.ndarray
) -> str:
    scale = results.dataset.scale.name
    figure, axes = panel(430, 290, left=50, right=8, top=28, bottom=44)
    axes.axhline(0, color=COLORS["ink"], linewidth=1.1)
    dots = {"color": COLORS["model"], "edgecolors": COLORS["paper"], "linewidths": 0.8}
    axes.scatter(values, errors, s=34, alpha=0.7, zorder=3, **dots)
    ends = np.array([values.min(), values.max()])
    axes.plot(ends, np.polyval(np.polyfit(values, errors, 1), ends), color=COLORS["model"])
    reach = max(1.0, 1.1 * float(np.abs(errors).max()))
    axes.set(ylim=(-reach, reach), title=title)
    axes.set(xlabel=f"{title} of the clip (ITU-T P.910)", ylabel=f"Predicted − true {scale}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value, 0)))
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    correlation = ""
    if len(values) > 2 and np.ptp(errors) > 0:  # noqa: PLR2004 - two are always on a line
        correlation = f"r {number(float(np.corrcoef(values, errors)[0, 1]))}"
        axes.text(0.02, 0.97, correlation, transform=axes.transAxes, va="top", fontsize=11.5)
    description = (
        f"Error of {len(values)} clips over {title.lower()}: {correlation or 'two clips'}."
    )
    return inline_svg(figure, name=f"residuals-{title.partition(' ')[0]}", description=description)


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


def margin_curves(results: EvaluationResults) -> tuple[str, ...]:
    """Draw what encoding finer than predicted costs and prevents: a panel per level.

    A level whose sizes are unknown, or do not depend on the margin, has no panel.
    """
    extra = np.array(results.network.score.margin.extra_bits)
    return tuple(
        _margin_panel(results, level)
        for level in range(NUM_LEVELS)
        if extra[_LABELED_MARGINS[-1], level] > extra[0, level]
    )


@mpl.rc_context(STYLE)
def _margin_panel(results: EvaluationResults, level: int) -> str:
    title = level_name(level)
    figure, axes = panel(330, 276, left=52, right=8, top=28, bottom=44)
    for name, one in results.predictors.items():
        margin = one.score.margin
        extra, safe = (np.array(values)[:, level] for values in (margin.extra_bits, margin.safe))
        axes.plot(extra, safe, **_line_style(results, name))
        if name == results.model:
            marked = [margin.margins.index(each) for each in _LABELED_MARGINS]
            axes.plot(extra[marked], safe[marked], "o", color=COLORS["model"], markersize=6)
            for row in marked:
                axes.annotate(
                    str(margin.margins[row]),
                    (extra[row], safe[row]),
                    xytext=(5, -5),
                    textcoords="offset points",
                    va="top",
                )
    # Beyond the last label, curves only repeat that all clips are safe.
    first = min(one.score.margin.extra_bits[0][level] for one in results.predictors.values())
    last = results.network.score.margin.extra_bits[_LABELED_MARGINS[-1]][level]
    axes.set_xlim(first - 0.08 * (last - first), last + 0.1 * (last - first))
    axes.set(title=title, xlabel="Mean bits, compared with the viewers’ level")
    axes.set(ylabel="Clips without visible difference")
    _percent_axis(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{signed(100 * value, 0)}%"))
    steps = "; ".join(
        f"{margin} finer: {number(100 * safe[level], 0)}% for {signed(100 * extra[level], 0)}% bits"
        for margin, safe, extra in zip(
            results.network.score.margin.margins,
            results.network.score.margin.safe,
            results.network.score.margin.extra_bits,
            strict=True,
        )
        if margin in _LABELED_MARGINS
    )
    description = (
        f"{title}: share of clips without visible difference over mean bits, if clips are encoded"
        f" finer than predicted. {predictor_style(results.model).label}, {steps}."
    )
    return inline_svg(figure, name=f"margin-{level + 1}", description=description)


@mpl.rc_context(STYLE)
def rate_curve(results: EvaluationResults, row: int, curve: QualityCurve) -> str:
    """Draw PSNR over the bit rate of one clip, with the viewers' and the predicted levels.

    Of an image, or if the duration is unknown, over the size.

    Args:
      results: results of the evaluation.
      row: row of the clip among the test sources.
      curve: its measurements.

    Returns:
      SVG; empty if sizes are unknown or fewer than two quantizers are measured.
    """
    measured = np.isfinite(curve.psnr_rgb_db) & np.isfinite(curve.num_bits)
    if measured.sum() < 2:  # noqa: PLR2004 - a line needs two points
        return ""
    figure, axes = panel(330, 236, left=44, right=26, top=8, bottom=44)
    has_rate = np.isfinite(curve.seconds)
    unit = "kbit/s" if has_rate else "kB"
    per_bit = 1 / (1000 * curve.seconds) if has_rate else 1 / 8000
    axes.plot(
        curve.num_bits[measured] * per_bit,
        curve.psnr_rgb_db[measured],
        color=COLORS["constant"],
        linewidth=1.6,
    )
    marks = {
        "viewers": (results.test.levels[row], COLORS["ink"], "o", 7.0, (-5, 4), "right"),
        "predicted": (results.network.predicted[row], COLORS["model"], "D", 6.0, (5, -4), "left"),
    }
    shown: list[str] = []
    for name, (levels, color, marker, size, offset, side) in marks.items():
        for level in np.flatnonzero(np.isfinite(levels)):
            at = float(curve.bits_at(levels[level]) * per_bit), float(curve.psnr_at(levels[level]))
            if not np.isfinite(at[0]):
                continue
            axes.plot(*at, marker, color=color, markersize=size, markerfacecolor="none", mew=1.8)
            axes.annotate(
                str(level + 1),
                at,
                xytext=offset,
                textcoords="offset points",
                ha=side,
                va="bottom" if name == "viewers" else "top",
                color=color,
            )
            shown.append(f"{level_name(int(level))} {name} {at[0]:.3g} {unit}, {at[1]:.1f} dB")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / low < _MANY_TICKS_TO else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    x_label = f"{'Bit rate' if has_rate else 'Size'}, {unit}"
    axes.set(xlabel=x_label, ylabel="PSNR, dB")
    description = (
        f"PSNR over {x_label.lower()} of {results.test.source_ids[row]}. {'; '.join(shown)}."
    )
    return inline_svg(figure, name=f"rate-{row}", description=description)


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
    """Draw the learning curves: a panel per stage and metric, training and validation together.

    A stage of one epoch has no panel.
    """
    by_panel: dict[tuple[str, str], dict[str, Curve]] = {}
    for curve in curves:
        metric = curve.metric.removeprefix("val_")
        if metric in METRIC_TITLES and len(curve.epochs) > 1:
            split = "validation" if curve.metric.startswith("val_") else "training"
            by_panel.setdefault((curve.stage, metric), {})[split] = curve
    return tuple(_learning_panel(*key, by_split) for key, by_split in by_panel.items())


@mpl.rc_context(STYLE)
def _learning_panel(stage: str, metric: str, by_split: Mapping[str, Curve]) -> str:
    title = f"{stage}: {METRIC_TITLES[metric]}"
    figure, axes = panel(256, 200, left=44, right=8, top=28, bottom=42)
    for split, curve in sorted(by_split.items()):  # validation on top
        color, width = (COLORS["other"], 1.5) if split == "training" else (COLORS["model"], 2.2)
        axes.plot(curve.epochs, curve.values, color=color, linewidth=width)
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
    """Return levels (from 0) that are predicted and present in two clips, with their rows."""
    present = ~np.isnan(results.network.abs_errors)
    return {level: rows for level, rows in enumerate(present.T) if rows.sum() > 1}


def _line_style(results: EvaluationResults, name: str) -> dict[str, Any]:
    style = predictor_style(name, results.predictors)
    width = 2.4 if name == results.model else 1.8
    return {"color": COLORS[style.color], "linestyle": style.dash, "linewidth": width}


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def number(value: float, digits: int = 2) -> str:
    """Format a number with a minus sign and without negative zero; a dash if it is not finite."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 1) -> str:
    """Format a number like `number`, with a plus sign if it is above zero as printed."""
    return ("+" if round(value, digits) > 0 else "") + number(value, digits)
