"""The HTML report: one self-contained page that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from laser_dist.evaluation import plots
from laser_dist.evaluation.baselines import CONSTANT, ONE_ENCODE, RIDGE, TREES
from laser_dist.evaluation.example_clips import ExampleClip
from laser_dist.evaluation.intervals import Interval
from laser_dist.evaluation.metrics import level_means, mean_of_present
from laser_dist.evaluation.plots import METRIC_TITLES, number, signed
from laser_dist.evaluation.provenance import ModelCost
from laser_dist.evaluation.results import EvaluationResults, to_csv, to_json
from laser_dist.evaluation.trained_run import Curve
from laser_dist.jnd.calibration import COVERAGE
from laser_dist.models.variants import (
    PUBLISHED_JND1_ERROR_QP,
    PUBLISHED_JND1_PSNR_ERROR_DB,
    variant_named,
)

_NO_VALUE = number(math.nan)
# What the groups of a dataset are, by its `split_by`.
_GROUPS = {"film": "film", "footage": "photograph or video"}
_SCRIPT = Path(__file__).parent / "templates" / "report.js"


# Option for the quantizer of a level: of FFmpeg's libx264, and of cjpeg.
_ENCODER_OPTIONS = {"QP": "-qp", "QF": "-quality"}


@dataclass(frozen=True)
class GroupRow:
    """A row of the table of groups; errors are on the dataset's scale.

    Attributes:
      group_id: the group.
      num_sources: its number of test clips.
      mean_abs_error: mean over their levels.
      bias: [3], mean of predicted - true for each level.
    """

    group_id: str
    num_sources: int
    mean_abs_error: float
    bias: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ClipRow:
    """A row of the table of clips.

    Attributes:
      source_id: the clip.
      group_id: its group.
      thumbnail: uint8 [H, W, 3]; None if there is none.
      mean_abs_error: mean over the clip's levels, on the dataset's scale.
      levels: true and predicted level of each level that the network predicts.
      mean_psnr_error_db: mean over the clip's levels, dB.
      bitrate_kbps: of the clip encoded at the first predicted level; NaN for an image.
    """

    source_id: str
    group_id: str
    thumbnail: np.ndarray | None
    mean_abs_error: float
    levels: tuple[tuple[float, float], ...]
    mean_psnr_error_db: float
    bitrate_kbps: float


def render(
    results: EvaluationResults,
    curves: Sequence[Curve] = (),
    examples: Sequence[ExampleClip] = (),
    thumbnails: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Render the report.

    Args:
      results: results of the evaluation.
      curves: learning curves; may be empty.
      examples: example clips; may be empty.
      thumbnails: source id to a small picture, uint8 [H, W, 3]; sources may be absent.

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
        style=partial(plots.predictor_style, names=tuple(results.predictors)),
        headline=headline(results),
        comparison=comparison(results),
        level_names=[plots.level_name(index) for index in range(results.test.levels.shape[1])],
        predicted_levels=_enumeration([f"JND{level}" for level in results.levels]),
        clips_and_groups=_clips_and_groups(results),
        bits_saved=results.bits_saved,
        has_label_noise=any(map(math.isfinite, results.label_noise)),
        has_intervals=any(
            one.score.prediction_interval is not None for one in results.predictors.values()
        ),
        nominal=COVERAGE,
        has_sur=any(map(math.isfinite, results.network.score.sur_at_level)),
        has_thumbnails=bool(thumbnails),
        error_intervals=Markup(plots.error_intervals(results)),
        agreement=_markup(plots.agreement(results)),
        order_violations=[
            (plots.predictor_style(name, results.predictors).label, one.score.order_violations)
            for name, one in results.predictors.items()
            if math.isfinite(one.score.order_violations)
        ],
        published=_published(results),
        encoder_option=_ENCODER_OPTIONS[results.dataset.scale.name],
        residuals=_markup(plots.residuals(results)),
        group_rows=group_rows(results),
        distribution=_markup(plots.error_distribution(results)),
        margins=_markup(plots.margin_curves(results)),
        learning=_markup(plots.learning_curves(curves)),
        single_epochs=_single_epochs(curves),
        clip_rows=clip_rows(results, thumbnails or {}),
        has_rates=bool(np.isfinite(results.network.bitrate_kbps).any()),
        downloads={
            "results.json": _download("application/json", to_json(results)),
            "predictions.csv": _download("text/csv", to_csv(results)),
        },
        examples=examples,
        end_to_end=variant_named(results.model.partition("#")[0]).end_to_end,
        sur=sur,
        sur_curves=_markup(plots.sur_curves(results)),
        provenance=_provenance(results),
        settings=json.dumps(results.provenance.settings, indent=2, default=str)
        if results.provenance.settings
        else "",
    )


def headline(results: EvaluationResults) -> str:
    """Return the main result in one sentence that claims no more than its interval supports."""
    score = results.network.score
    name = plots.predictor_style(results.model).label
    if not math.isfinite(score.mean_abs_error):
        return f"No test clip has a level that {name} predicts."
    clips, scale = _clips_and_groups(results), results.dataset.scale.name
    found = (
        f"On {clips} held out from training, {name} has a mean error of"
        f" {score.mean_abs_error:.2f} {scale}"
    )
    ratio, (low, high) = score.ratio_to_constant, score.ratio_to_constant_interval
    if not math.isfinite(ratio):
        return f"{found}; the constant baseline has no error on these clips."
    if not math.isfinite(low):
        return f"{found}; one group is too few for a comparison with the constant baseline."
    # A ratio of means could be chance, depending on the clips: its interval decides.
    if high < 1:
        less = f"{_percent(1 - high)} to {_percent(1 - low)}"
        return (
            f"{found}, {_percent(1 - ratio)} less than the constant baseline (95% interval {less})."
        )
    if low > 1:
        more = f"{_percent(low - 1)} to {_percent(high - 1)}"
        return (
            f"{found}, {_percent(ratio - 1)} more than the constant baseline (95% interval {more})."
        )
    return (
        f"{found}; the difference from the constant baseline is not significant (ratio"
        f" {number(ratio)}, 95% interval {number(low)} to {number(high)})."
    )


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
        number=number,
        interval=_interval,
        signed=signed,
        clips=_clips,
        percent=_percent,
        signed_percent=_signed_percent,
        data_uri=data_uri,
        data_value=_data_value,
    )
    return environment.get_template("report.html.j2")


def data_uri(rgb: np.ndarray, *, lossless: bool = True) -> str:
    """Encode an image as a data URI.

    Args:
      rgb: uint8 [H, W, 3].
      lossless: for frames, because readers compare them closely; thumbnails need not be.
    """
    buffer = io.BytesIO()
    # Lossless WebP is a third smaller than PNG for photographs; all current browsers decode it.
    Image.fromarray(rgb).save(buffer, format="WEBP", lossless=lossless, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _markup(drawings: Sequence[str]) -> list[Markup]:
    """Mark drawings as safe HTML; `svg.py` escapes the text in them."""
    return [Markup(drawing) for drawing in drawings]


def _interval(interval: Interval, digits: int = 2) -> str:
    if not all(map(math.isfinite, interval)):
        return _NO_VALUE
    low, high = (number(end, digits) for end in interval)
    # An en dash next to a minus sign is hard to read. A line does not break at thin spaces.
    dash = "to" if interval[0] < 0 else "\N{EN DASH}"
    return f"{low}\u2009{dash}\u2009{high}"


def _percent(fraction: float, digits: int = 0) -> str:
    text = number(fraction * 100, digits)
    return text if text == _NO_VALUE else f"{text}%"


def _signed_percent(fraction: float) -> str:
    text = signed(fraction * 100, 0)
    return text if text == _NO_VALUE else f"{text}%"


def _clips(count: int) -> str:
    return f"{count:,} clip" + ("" if count == 1 else "s")


def _clips_and_groups(results: EvaluationResults) -> str:
    """Return the number of test clips and, if some clips share one, of their groups."""
    clips, count = _clips(results.num_sources), results.num_groups
    if count == results.num_sources:
        return clips
    one = _GROUPS.get(results.dataset.split_by, "group")
    many = " or ".join(f"{word}s" for word in one.split(" or "))
    return f"{clips} from {count} {one if count == 1 else many}"


def clip_rows(
    results: EvaluationResults, thumbnails: Mapping[str, np.ndarray]
) -> tuple[ClipRow, ...]:
    """Return all test clips, the highest mean error first and those without levels last."""
    test, network = results.test, results.network
    errors = mean_of_present(network.abs_errors, axis=1)
    psnr_errors_db = mean_of_present(network.psnr_errors_db, axis=1)
    columns = [level - 1 for level in results.levels]
    return tuple(
        ClipRow(
            test.source_ids[row],
            test.group_ids[row],
            thumbnails.get(test.source_ids[row]),
            float(errors[row]),
            tuple((float(test.levels[row, c]), float(network.predicted[row, c])) for c in columns),
            float(psnr_errors_db[row]),
            float(network.bitrate_kbps[row, columns[0]]),
        )
        for row in np.argsort(-errors, kind="stable")  # NaN last
    )


def group_rows(results: EvaluationResults) -> tuple[GroupRow, ...]:
    """Return the groups, the highest mean error first; empty if each clip is its own group."""
    test, network = results.test, results.network
    if results.num_groups == results.num_sources:
        return ()
    group_ids = np.array(test.group_ids)
    rows = [
        GroupRow(
            group_id,
            int(members.sum()),
            float(mean_of_present(network.abs_errors[members])),
            level_means((network.predicted - test.levels)[members]),
        )
        for group_id in sorted(set(test.group_ids))
        for members in [group_ids == group_id]
    ]
    return tuple(sorted(rows, key=lambda row: -np.nan_to_num(row.mean_abs_error, nan=-1.0)))


def _published(results: EvaluationResults) -> tuple[float, float] | None:
    """Return the published JND1 errors in QP and dB; None if they are of other data."""
    is_comparable = results.dataset.name == "videoset_jnd" and not results.dataset.simulated
    published = PUBLISHED_JND1_ERROR_QP, PUBLISHED_JND1_PSNR_ERROR_DB
    return published if is_comparable and 1 in results.levels else None


def _cost(cost: ModelCost) -> str:
    text = f"{cost.num_parameters:,} parameters"
    if math.isfinite(cost.seconds_per_frame):
        text += f", {1000 * cost.seconds_per_frame:.3g} ms per frame, without reading it"
    return text


def _single_epochs(curves: Sequence[Curve]) -> list[tuple[str, str, float, float]]:
    """Return stage, metric, training and validation value of stages of one epoch."""
    last = {(curve.stage, curve.metric): curve for curve in curves if len(curve.epochs) == 1}
    values = {key: float(curve.values[0]) for key, curve in last.items()}
    return [
        (stage, METRIC_TITLES[metric], value, values.get((stage, f"val_{metric}"), math.nan))
        for (stage, metric), value in values.items()
        if metric in METRIC_TITLES
    ]


def _download(media_type: str, text: str) -> str:
    """Return a file of the page as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(text.encode()).decode('ascii')}"


def _data_value(value: float) -> str:
    """Return the value that a table is sorted by; empty if it is not finite."""
    return f"{value:z.4f}" if math.isfinite(value) else ""


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
        ("Test clips", _clips_and_groups(results)),
        ("Run", made.run),
        ("Command", made.command),
        ("Commit", made.commit),
        *(
            (plots.predictor_style(name, results.predictors).label, _cost(cost))
            for name, cost in made.models.items()
        ),
        ("Hardware", made.hardware),
        ("Date", made.date),
        ("Versions", ", ".join(f"{name} {value}" for name, value in made.packages.items())),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value]
