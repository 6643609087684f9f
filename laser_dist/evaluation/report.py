"""The evaluation as one page that a person can read: no file beside it, nothing to load."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from laser_dist.evaluation import plots
from laser_dist.evaluation.exemplars import Exemplar
from laser_dist.evaluation.learning_curves import Curve
from laser_dist.evaluation.metrics import Interval, PredictorScore, mean_of_present
from laser_dist.evaluation.results import CONSTANT, RIDGE, EvaluationResults

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
        bits_saved=results.bits_saved,
        error_intervals=Markup(plots.error_intervals(results)),
        agreement=_drawings(plots.agreement(results)),
        distribution=_drawings(plots.error_distribution(results)),
        learning=_drawings(plots.learning(inputs.curves)),
        clips=[_clip_view(exemplar) for exemplar in inputs.exemplars],
        provenance=_provenance(results),
    )


def headline(results: EvaluationResults) -> str:
    """What was found, in one sentence that claims no more than the interval allows."""
    own = results.predictors[results.model].score
    name = plots.predictor_style(results.model).label
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
    """What stands beside the headline: the cheap regression, and the error in quality."""
    own, ridge = results.predictors[results.model], results.predictors[RIDGE].score
    scale = results.dataset.scale.name
    quality = mean_of_present(own.errors.psnr_db)
    return (
        f"The constant is off by {results.predictors[CONSTANT].score.mean_abs_error:.2f} {scale},"
        f" a regression on nothing but spatial and temporal information by"
        f" {ridge.mean_abs_error:.2f} {scale}. In quality, the network’s"
        f" levels lie {quality:.2f} dB from the true ones."
    )


def data_uri(rgb: np.ndarray) -> str:
    """An image within the page, without loss: it is here to be looked at closely.

    Args:
      rgb: uint8 [H, W, 3].
    """
    buffer = io.BytesIO()
    # Lossless WebP: a third smaller than PNG on photographs, and every browser reads it.
    Image.fromarray(rgb).save(buffer, format="WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


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
        number=_number, interval=_interval, signed=_signed, clips=_clips, percent=_percent
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
class _LevelView:
    """One level of one clip: figures of both frames and the frames themselves.

    Where the level is missing there is no coded frame: `coded_uri` is empty.
    """

    index: int
    true: float
    predicted: float
    true_psnr_db: float
    abs_psnr_error_db: float
    coded_psnr_db: float
    predicted_psnr_db: float
    coded_uri: str
    predicted_uri: str


@dataclass(frozen=True)
class _ClipView:
    """One clip to look at."""

    exemplar: Exemplar
    title: str
    width: int
    height: int
    raw_uri: str
    levels: Sequence[_LevelView]


_TITLES: Mapping[str, str] = {
    "lowest": "The lowest error",
    "median": "The median error",
    "highest": "The highest error",
}


def _clip_view(exemplar: Exemplar) -> _ClipView:
    height, width, _ = exemplar.raw.shape
    return _ClipView(
        exemplar=exemplar,
        title=_TITLES[exemplar.standing],
        width=width,
        height=height,
        raw_uri=data_uri(exemplar.raw),
        levels=[_level_view(exemplar, index) for index in range(len(exemplar.coded))],
    )


def _level_view(exemplar: Exemplar, index: int) -> _LevelView:
    return _LevelView(
        index=index + 1,
        true=float(exemplar.true_levels[index]),
        predicted=float(exemplar.predicted_levels[index]),
        true_psnr_db=float(exemplar.true_psnr_db[index]),
        abs_psnr_error_db=float(exemplar.abs_psnr_error_db[index]),
        coded_psnr_db=float(exemplar.coded_psnr_db[index]),
        predicted_psnr_db=float(exemplar.predicted_psnr_db[index]),
        coded_uri="" if np.isnan(exemplar.true_levels[index]) else data_uri(exemplar.coded[index]),
        predicted_uri=data_uri(exemplar.predicted[index]),
    )


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
