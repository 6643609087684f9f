"""The report's figures. One color, marker and dash per predictor, the same in each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    ScalarFormatter,
)

from laser_dist.evaluation.baselines import CONSTANT, RIDGE, TREES
from laser_dist.evaluation.learning_curves import Curve
from laser_dist.evaluation.results import EvaluationResults, PredictorResult
from laser_dist.evaluation.svg import COLORS, STYLE, inline_svg, panel

# Logged metrics worth a panel, with what to call them; what is not named here is not drawn.
METRIC_TITLES = {
    "loss": "loss",
    "jnd1": "JND1 error",
    "jnd2": "JND2 error",
    "jnd3": "JND3 error",
    "frame": "frame error",
    "likelihood": "viewers’ surprise",
}
_LOG_SCALE_FROM = 10.0
_NEARBY = 2.0  # the error whose share of clips is read out for those who cannot see the lines


@dataclass(frozen=True)
class PredictorStyle:
    """How one predictor is named and drawn.

    Attributes:
      label: its name in words.
      color: a key of `COLORS`.
      marker: matplotlib's sign for its dots.
      dash: matplotlib's line style.
    """

    label: str
    color: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]


_BASELINE_STYLES = {
    CONSTANT: PredictorStyle("Constant", "constant", "s", (0, (5, 3))),
    RIDGE: PredictorStyle("SI/TI ridge", "ridge", "D", (0, (1.5, 2))),
    TREES: PredictorStyle("SI/TI trees", "trees", "^", (0, (7, 2, 1.5, 2))),
}


def predictor_style(name: str) -> PredictorStyle:
    """Style of a predictor by its key; any key that is no baseline's is the network."""
    return _BASELINE_STYLES.get(name) or PredictorStyle(name.upper(), "model", "o", "-")


def error_intervals(results: EvaluationResults) -> str:
    """Mean absolute errors with their intervals: a row per level, a mark per predictor.

    Only of levels that the network predicts.
    """
    with mpl.rc_context(STYLE):
        figure, axes = panel(430, 250, left=50, right=10, top=4, bottom=44)
        shown = [level - 1 for level in results.levels]
        num_levels = len(shown)
        # The network's mark stands on top of each row, and a little larger.
        offsets = np.linspace(-0.26, 0.26, len(results.predictors))
        for (name, result), offset in zip(results.predictors.items(), offsets, strict=True):
            style, rows = predictor_style(name), np.arange(num_levels) + offset
            low, high = np.array(result.score.abs_error_interval)[shown].T
            errors = np.array(result.score.abs_error)[shown]
            color, size = COLORS[style.color], 8.5 if name == results.model else 6.5
            axes.hlines(rows, low, high, color=color, linewidth=2.4, alpha=0.5)
            axes.plot(errors, rows, style.marker, color=color, markersize=size)
        for boundary in np.arange(num_levels - 1) + 0.5:
            axes.axhline(boundary, color=COLORS["rule"], linewidth=0.8)
        axes.set_yticks(range(num_levels), [level_name(level) for level in shown])
        axes.tick_params(axis="y", labelcolor=COLORS["ink"], labelsize=12)
        axes.set_ylim(num_levels - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"Mean absolute error, {results.dataset.scale.name}, and its 95 % interval")
    description = (
        "Mean absolute error of each predictor at each level with its 95 percent interval;"
        " the table beside it holds the same figures."
    )
    return inline_svg(figure, name="error-intervals", description=description)


def agreement(results: EvaluationResults) -> tuple[str, ...]:
    """Predicted against true levels: a panel per level that any clip has, a dot per clip."""
    pairs = {
        level: (results.test.levels[rows, level], _network(results).predicted[rows, level])
        for level, rows in _clips_with(results).items()
    }
    span = _common_span(pairs.values())
    return tuple(_agreement_panel(results, level, *both, span) for level, both in pairs.items())


def _agreement_panel(
    results: EvaluationResults, level: int, true: np.ndarray, predicted: np.ndarray, span: float
) -> str:
    name = level_name(level)
    constant = float(results.predictors[CONSTANT].predicted[0, level])
    limits = _centerd_limits(true, predicted, span)
    scale = results.dataset.scale.name
    with mpl.rc_context(STYLE):
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
        f"{name}: predicted against true {scale} of {len(true)} clips by"
        f" {predictor_style(results.model).label}, {_correlation(true, predicted)}; the identity"
        f" line and the constant {constant:.1f} are drawn in."
    )
    return inline_svg(figure, name=f"agreement-{level + 1}", description=description)


def error_distribution(results: EvaluationResults) -> tuple[str, ...]:
    """Share of clips within a given error: a panel per level that any has, a line per predictor."""
    errors = {
        level: {name: one.errors.levels[rows, level] for name, one in results.predictors.items()}
        for level, rows in _clips_with(results).items()
    }
    largest = [float(values.max()) for each in errors.values() for values in each.values()]
    widest = max([1.0, *largest])
    return tuple(
        _distribution_panel(results, level, each, widest) for level, each in errors.items()
    )


def _distribution_panel(
    results: EvaluationResults, level: int, errors: Mapping[str, np.ndarray], widest: float
) -> str:
    title = level_name(level)
    scale = results.dataset.scale.name
    with mpl.rc_context(STYLE):
        figure, axes = panel(330, 256, left=52, right=4, top=28, bottom=44)
        for name, values in errors.items():
            style = predictor_style(name)
            width = 2.4 if name == results.model else 1.8
            axes.ecdf(values, color=COLORS[style.color], linestyle=style.dash, linewidth=width)
        axes.set(xlim=(0, widest), ylim=(0, 1.02), title=title)
        axes.set(xlabel=f"Absolute error, {scale}", ylabel="Clips within it")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    shares = ", ".join(
        f"{predictor_style(name).label} {np.mean(values <= _NEARBY):.0%}"
        for name, values in errors.items()
    )
    description = (
        f"{title}: share of clips within each absolute error. Within {_NEARBY:g} {scale}: {shares}."
    )
    return inline_svg(figure, name=f"distribution-{level + 1}", description=description)


def learning(curves: Iterable[Curve]) -> tuple[str, ...]:
    """A panel per stage and metric, training and validation together."""
    by_panel: dict[tuple[str, str], dict[bool, Curve]] = {}
    for curve in curves:
        base = curve.metric.removeprefix("val_")
        if base in METRIC_TITLES and len(curve.epochs) > 0:
            held_out = curve.metric.startswith("val_")
            by_panel.setdefault((curve.stage, base), {})[held_out] = curve
    return tuple(_learning_panel(*key, both) for key, both in by_panel.items())


def _learning_panel(stage: str, metric: str, both: Mapping[bool, Curve]) -> str:
    title = f"{stage}: {METRIC_TITLES[metric]}"
    with mpl.rc_context(STYLE):
        figure, axes = panel(256, 200, left=44, right=8, top=28, bottom=42)
        for held_out, curve in sorted(both.items()):
            color = COLORS["model" if held_out else "other"]
            # A line through one point cannot be seen.
            marker = "o" if len(curve.epochs) < 3 else ""
            width = 2.2 if held_out else 1.5
            axes.plot(
                curve.epochs, curve.values, color=color, lw=width, marker=marker, markersize=4
            )
        values = np.concatenate([curve.values for curve in both.values()])
        if values.min() > 0 and values.max() / values.min() > _LOG_SCALE_FROM:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(_plain_numbers())
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(title=title, xlabel="Epoch")
    ends = "; ".join(
        f"{'validation' if held_out else 'training'} ends at {curve.values[-1]:.4g}"
        for held_out, curve in sorted(both.items(), reverse=True)
    )
    description = f"Stage {title} over epochs; {ends}."
    return inline_svg(figure, name=f"learning-{stage}-{metric}", description=description)


def level_name(index: int) -> str:
    """Such as "JND1" of 0."""
    return f"JND{index + 1}"


def _network(results: EvaluationResults) -> PredictorResult:
    return results.predictors[results.model]


def _clips_with(results: EvaluationResults) -> dict[int, np.ndarray]:
    """Levels (from 0) that any clip has and the network predicts, to the clips that have it."""
    present = ~np.isnan(_network(results).errors.levels)
    return {level: rows for level, rows in enumerate(present.T) if rows.any()}


def _common_span(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """One width for all panels, so that a distance means the same in each of them."""
    return max([4.0, *(float(np.ptp(np.concatenate(both))) * 1.12 for both in pairs)])


def _centerd_limits(true: np.ndarray, predicted: np.ndarray, span: float) -> tuple[float, float]:
    both = np.concatenate([true, predicted])
    center = (both.min() + both.max()) / 2
    return float(center - span / 2), float(center + span / 2)


def _plain_numbers() -> ScalarFormatter:
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_powerlimits((-3, 5))
    return formatter


def _correlation(true: np.ndarray, predicted: np.ndarray) -> str:
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return "one of the two does not vary"
    return f"correlation {np.corrcoef(true, predicted)[0, 1]:.2f}"
