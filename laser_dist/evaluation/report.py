"""The HTML report: one self-contained page that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from laser_dist.evaluation import plots
from laser_dist.evaluation.baselines import CONSTANT, ONE_ENCODE, RIDGE, TREES
from laser_dist.evaluation.example_clips import ExampleClip
from laser_dist.evaluation.intervals import Interval
from laser_dist.evaluation.metrics import mean_of_present
from laser_dist.evaluation.results import EvaluationResults
from laser_dist.evaluation.trained_run import Curve
from laser_dist.models.variants import variant_named

_MINUS = "\N{MINUS SIGN}"
_NO_VALUE = "\N{EN DASH}"
_SCRIPT = Path(__file__).parent / "templates" / "report.js"


def render(
    results: EvaluationResults, curves: Sequence[Curve] = (), examples: Sequence[ExampleClip] = ()
) -> str:
    """Render the report.

    Args:
      results: results of the evaluation.
      curves: learning curves; may be empty.
      examples: example clips; may be empty.

    Returns:
      HTML; the same input gives the same text.
    """
    sur = results.sur
    if sur and not math.isfinite(sur.predictors[results.model].score.mean_wasserstein):
        sur = None  # the dataset has no samples to compare with
    script = _SCRIPT.read_text(encoding="utf-8")
    return _template().render(
        policy=_policy(script),
        script=Markup(script),
        results=results,
        dataset=results.dataset,
        scale=results.dataset.scale.name,
        model=plots.predictor_style(results.model),
        style=plots.predictor_style,
        headline=headline(results),
        comparison=comparison(results),
        level_names=[plots.level_name(index) for index in range(results.test.levels.shape[1])],
        predicted_levels=_enumeration([f"JND{level}" for level in results.levels]),
        bits_saved=results.bits_saved,
        error_intervals=Markup(plots.error_intervals(results)),
        agreement=_markup(plots.agreement(results)),
        distribution=_markup(plots.error_distribution(results)),
        learning=_markup(plots.learning_curves(curves)),
        examples=examples,
        end_to_end=variant_named(results.model.partition("#")[0]).end_to_end,
        sur=sur,
        sur_curves=_markup(plots.sur_curves(results)),
        provenance=_provenance(results),
    )


def headline(results: EvaluationResults) -> str:
    """Return the main result in one sentence that claims no more than its interval supports."""
    score = results.network.score
    name = plots.predictor_style(results.model).label
    if not math.isfinite(score.mean_abs_error):
        return f"No test clip has a level that {name} predicts."
    clips, scale = _clips(results.num_sources), results.dataset.scale.name
    found = (
        f"On {clips} held out from training, {name} has a mean error of"
        f" {score.mean_abs_error:.2f} {scale}"
    )
    ratio, (low, high) = score.ratio_to_constant, score.ratio_to_constant_interval
    if not math.isfinite(ratio):
        return f"{found}; the constant baseline has no error on these clips."
    # A ratio of means could be chance, depending on the clips: its interval decides.
    if high < 1:
        return f"{found}, {_percent(1 - ratio)} less than the constant baseline."
    if low > 1:
        return f"{found}, {_percent(ratio - 1)} more than the constant baseline."
    return f"{found}; the difference from the constant baseline is not significant."


def comparison(results: EvaluationResults) -> str:
    """Return the errors of the baselines, and the network's in dB; empty if there are none."""
    if not math.isfinite(results.network.score.mean_abs_error):
        return ""
    constant, ridge, trees, one_encode = (
        results.predictors[name].score.mean_abs_error
        for name in (CONSTANT, RIDGE, TREES, ONE_ENCODE)
    )
    scale = results.dataset.scale.name
    psnr_error_db = mean_of_present(results.network.psnr_errors_db)
    return (
        f"The constant baseline predicts the training median and has a mean error of"
        f" {constant:.2f} {scale}. From spatial and temporal information only, ridge regression"
        f" reaches {ridge:.2f} {scale} and boosted trees {trees:.2f} {scale}; from the size of"
        f" one encode, trees reach {one_encode:.2f} {scale}. Encoding at the"
        f" network’s levels instead of the true ones changes PSNR by {psnr_error_db:.2f} dB on"
        f" average."
    )


def _policy(script: str) -> str:
    """Return a Content Security Policy by which the page runs this script and loads nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
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
        data_uri=data_uri,
    )
    return environment.get_template("report.html.j2")


def data_uri(rgb: np.ndarray) -> str:
    """Encode an image as a data URI, losslessly, because readers compare the frames closely.

    Args:
      rgb: uint8 [H, W, 3].
    """
    buffer = io.BytesIO()
    # Lossless WebP is a third smaller than PNG for photographs; all current browsers decode it.
    Image.fromarray(rgb).save(buffer, format="WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _markup(drawings: Sequence[str]) -> list[Markup]:
    """Mark drawings as safe HTML; `svg.py` escapes the text in them."""
    return [Markup(drawing) for drawing in drawings]


def _number(value: float, digits: int = 2) -> str:
    if not math.isfinite(value):
        return _NO_VALUE
    return f"{value:z.{digits}f}".replace("-", _MINUS)  # z: no negative zero


def _signed(value: float, digits: int = 1) -> str:
    return ("+" if round(value, digits) > 0 else "") + _number(value, digits)


def _interval(interval: Interval, digits: int = 2) -> str:
    if not all(map(math.isfinite, interval)):
        return _NO_VALUE
    # Thin spaces set the dash apart; a line does not break at them.
    return f"{interval[0]:.{digits}f}\u2009\N{EN DASH}\u2009{interval[1]:.{digits}f}"


def _percent(fraction: float, digits: int = 0) -> str:
    number = _number(fraction * 100, digits)
    return number if number == _NO_VALUE else f"{number}%"


def _clips(count: int) -> str:
    return f"{count:,} clip" + ("" if count == 1 else "s")


def _enumeration(names: Sequence[str]) -> str:
    """Return names as a phrase, such as "JND1, JND2 and JND3"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _provenance(results: EvaluationResults) -> list[tuple[str, str]]:
    """Return what is needed to reproduce the results, as rows of a table."""
    dataset, made = results.dataset, results.provenance
    splits = ", ".join(f"{name} {_clips(len(ids))}" for name, ids in dataset.splits.items())
    rows = [
        ("Dataset", f"{dataset.full_name} {dataset.version}"),
        ("Dataset fingerprint", dataset.fingerprint),
        ("Dataset seed", "" if dataset.seed is None else str(dataset.seed)),
        ("Viewers", f"simulated: {dataset.simulation}" if dataset.simulated else "human"),
        ("Level", dataset.level_definition),
        ("Clips per split", splits),
        ("Test clips", f"{_clips(results.num_sources)} from {results.num_groups} recordings"
                       " or photographs"),
        ("Run", made.run),
        ("Command", made.command),
        ("Commit", made.commit),
        ("Hardware", made.hardware),
        ("Date", made.date),
        ("Versions", ", ".join(f"{name} {value}" for name, value in made.packages.items())),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value]
