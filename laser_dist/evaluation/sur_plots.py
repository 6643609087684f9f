"""The report's figure of satisfied viewers: predicted curves beside the viewers' own."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from laser_dist.evaluation.plots import level_name, predictor_style
from laser_dist.evaluation.results import EvaluationResults
from laser_dist.evaluation.sur_errors import SurComparison, lossy_quantizers
from laser_dist.evaluation.svg import COLORS, STYLE, inline_svg, panel

_BESIDE = 3  # quantizers shown beyond where a curve still falls


def median_curves(results: EvaluationResults) -> tuple[str, ...]:
    """Of each level the clip of median difference: a panel with the curves of all, and its own.

    None of a network without spreads, nor of a level where no difference is known.
    """
    if results.sur is None:
        return ()
    differences = results.sur.predictors[results.model].differences
    return tuple(
        _curves_panel(results, results.sur, _median_row(column), level)
        for level, column in enumerate(differences.T)
        if np.isfinite(column).any()
    )


def _median_row(differences: np.ndarray) -> int:
    """Where the median stands, the lower of two; NaN is none."""
    order = np.argsort(differences, kind="stable")[: np.count_nonzero(np.isfinite(differences))]
    return int(order[(len(order) - 1) // 2])


def _curves_panel(results: EvaluationResults, sur: SurComparison, row: int, level: int) -> str:
    scale = results.dataset.scale
    grid, own = lossy_quantizers(scale), sur.viewers[row, level]
    curves = {name: one.curves[row, level] for name, one in sur.predictors.items()}
    title = f"{level_name(level)}: {results.test.source_ids[row]}"
    with mpl.rc_context(STYLE):
        figure, axes = panel(330, 256, left=52, right=4, top=28, bottom=44)
        axes.step(grid, own, where="mid", color=COLORS["ink"], linewidth=1.3)
        for name, values in curves.items():
            style = predictor_style(name)
            width = 2.4 if name == results.model else 1.8
            axes.plot(
                grid, values, color=COLORS[style.color], linestyle=style.dash, linewidth=width
            )
        axes.set(xlim=_where_it_falls(grid, [own, *curves.values()]), ylim=(0, 1.02), title=title)
        axes.set(xlabel=scale.name, ylabel="Satisfied viewers")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    off = ", ".join(
        f"{predictor_style(name).label} {one.differences[row, level]:.1%}"
        for name, one in sur.predictors.items()
    )
    description = (
        f"{title}: share of satisfied viewers over {scale.name}, the viewers’ own and predicted;"
        f" mean difference {off}."
    )
    return inline_svg(figure, name=f"satisfied-{level + 1}", description=description)


def _where_it_falls(grid: np.ndarray, curves: list[np.ndarray]) -> tuple[float, float]:
    """The part of the scale where not all are satisfied, nor none, and a little beside it."""
    between = np.any([(curve > 0.01) & (curve < 0.99) for curve in curves], axis=0)
    places = grid[between] if between.any() else grid
    low, high = int(places[0]) - _BESIDE, int(places[-1]) + _BESIDE
    return max(low, int(grid[0])), min(high, int(grid[-1]))
