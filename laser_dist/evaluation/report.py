"""The evaluation as one page that a person can read: no file beside it, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jinja2
from markupsafe import Markup

from laser_dist.evaluation import plots, sur_plots
from laser_dist.evaluation.baselines import CONSTANT, RIDGE, TREES
from laser_dist.evaluation.exemplars import Exemplar
from laser_dist.evaluation.learning_curves import Curve
from laser_dist.evaluation.metrics import Interval, PredictorScore, mean_of_present
from laser_dist.evaluation.report_clips import clip_view
from laser_dist.evaluation.results import EvaluationResults
from laser_dist.evaluation.sur_errors import SurScore
from laser_dist.jnd.scale import NUM_LEVELS
from laser_dist.models.variants import variant_named

_MINUS = "\N{MINUS SIGN}"
_NO_VALUE = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportInputs:
    """All that the page is made of.

    Attributes:
      results: of the evaluation.
      curves: what training logged; may be empty.
      exemplars: the clips to look at; may be empty.
    """

    results: EvaluationResults
    curves: Sequence[Curve] = ()
    exemplars: Sequence[Exemplar] = ()


def render(inputs: ReportInputs) -> str:
    """The page as HTML text; the same inputs give the same text."""
    results = inputs.results
    return _template().render(
        results=results,
        dataset=results.dataset,
        scale=results.dataset.scale.name,
        model=plots.predictor_style(results.model),
        headline=headline(results),
        comparison=comparison(results),
        predictors=[_predictor_view(results, name) for name in results.predictors],
        level_names=[f"JND{index + 1}" for index in range(results.test.levels.shape[1])],
        named=_named(results.levels),
        bits_saved=results.bits_saved,
        error_intervals=Markup(plots.error_intervals(results)),
        agreement=_drawings(plots.agreement(results)),
        distribution=_drawings(plots.error_distribution(results)),
        learning=_drawings(plots.learning(inputs.curves)),
        clips=[clip_view(exemplar, results.levels) for exemplar in inputs.exemplars],
        end_to_end=variant_named(results.model).end_to_end,
        sur=_sur_views(results),
        sur_curves=_drawings(sur_plots.median_curves(results)),
        provenance=_provenance(results),
    )


def headline(results: EvaluationResults) -> str:
    """What was found, in one sentence that claims no more than the interval allows."""
    own = results.predictors[results.model].score
    name = plots.predictor_style(results.model).label
    if not math.isfinite(own.mean_abs_error):
        return f"No clip that it never saw has a level that {name} predicts."
    found = (
        f"On {_clips(results.num_sources)} it never saw, {name} is off by"
        f" {own.mean_abs_error:.2f} {results.dataset.scale.name} on average"
    )
    ratio, (low, high) = own.ratio_to_constant, own.ratio_to_constant_interval
    if not math.isfinite(ratio):
        return f"{found}; the constant predictor makes no error here, so nothing can be gained."
    # A ratio of the means alone could be luck of the draw of clips: its interval decides.
    if high < 1:
        return f"{found}, {_percent(1 - ratio)} less than always answering the training median."
    if low > 1:
        return f"{found}, {_percent(ratio - 1)} more than always answering the training median."
    return f"{found}; that is no reliable gain over always answering the training median."


def comparison(results: EvaluationResults) -> str:
    """What stands beside the headline: the cheap regressions, and the error in quality.

    Empty where there is nothing to compare.
    """
    own = results.predictors[results.model]
    if not math.isfinite(own.score.mean_abs_error):
        return ""
    constant, ridge, trees = (
        results.predictors[name].score.mean_abs_error for name in (CONSTANT, RIDGE, TREES)
    )
    scale = results.dataset.scale.name
    quality = mean_of_present(own.errors.psnr_db)
    return (
        f"The constant is off by {constant:.2f} {scale}; from spatial and temporal information"
        f" alone, a linear regression is off by {ridge:.2f} {scale} and boosted trees by"
        f" {trees:.2f} {scale}. In quality, the network’s levels lie {quality:.2f} dB from the true"
        f" ones."
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("laser_dist.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number,
        interval=_interval,
        signed=_signed,
        clips=_clips,
        percent=_percent,
        percents=_percents,
    )
    return environment.get_template("report.html.j2")


def _drawings(drawings: Sequence[str]) -> list[Markup]:
    """Drawings are made by us from escaped text, so the page may take them as they are."""
    return [Markup(drawing) for drawing in drawings]


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", _MINUS) if math.isfinite(value) else _NO_VALUE


def _signed(value: float, digits: int = 1) -> str:
    return ("+" if round(value, digits) > 0 else "") + _number(value, digits)


def _interval(interval: Interval, digits: int = 2) -> str:
    if not all(map(math.isfinite, interval)):
        return _NO_VALUE
    # A thin space keeps the dash apart from the digits without letting the line break there.
    return f"{interval[0]:.{digits}f}\u2009\N{EN DASH}\u2009{interval[1]:.{digits}f}"


def _percent(share: float, digits: int = 0) -> str:
    number = _number(share * 100, digits)
    return number if number == _NO_VALUE else f"{number}\N{NO-BREAK SPACE}%"


def _percents(interval: Interval, digits: int = 1) -> str:
    return _interval((interval[0] * 100, interval[1] * 100), digits)


def _clips(count: int) -> str:
    return f"{count:,} clip" + ("" if count == 1 else "s")


@dataclass(frozen=True)
class _PredictorView:
    """A row of the tables and an entry of the legends."""

    style: plots.PredictorStyle
    score: PredictorScore
    is_model: bool
    is_constant: bool


def _predictor_view(results: EvaluationResults, name: str) -> _PredictorView:
    return _PredictorView(
        style=plots.predictor_style(name),
        score=results.predictors[name].score,
        is_model=name == results.model,
        is_constant=name == CONSTANT,
    )


@dataclass(frozen=True)
class _SurView:
    """A row of the table of curves."""

    style: plots.PredictorStyle
    score: SurScore
    is_model: bool


def _sur_views(results: EvaluationResults) -> list[_SurView]:
    """None of a network without spreads, nor where no viewer's sample is known."""
    if results.sur is None or not math.isfinite(
        results.sur.predictors[results.model].score.mean_abs_difference
    ):
        return []
    return [
        _SurView(plots.predictor_style(name), one.score, is_model=name == results.model)
        for name, one in results.sur.predictors.items()
    ]


def _named(levels: Sequence[int]) -> str:
    """Such as "JND2" or "JND1 and JND3"; "all three"."""
    if len(levels) == NUM_LEVELS:
        return "all three"
    return " and ".join(f"JND{level}" for level in levels)


def _provenance(results: EvaluationResults) -> list[tuple[str, str]]:
    """What one needs to make the same figures again."""
    dataset = results.dataset
    splits = ", ".join(f"{name} {_clips(len(ids))}" for name, ids in dataset.splits.items())
    rows = [
        ("Dataset", f"{dataset.full_name} {dataset.version}"),
        ("Dataset fingerprint", dataset.fingerprint),
        ("Dataset seed", "" if dataset.seed is None else str(dataset.seed)),
        ("Viewers", f"simulated: {dataset.simulation}" if dataset.simulated else "people"),
        ("Level", dataset.level_definition),
        ("Sources per split", splits),
        ("Evaluated", f"{_clips(results.num_sources)} from {results.num_groups} recordings"
                      " or photographs"),
        ("Run", results.run),
        ("Bootstrap seed", str(results.seed)),
        ("Versions", ", ".join(f"{name} {value}" for name, value in results.versions.items())),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value]
