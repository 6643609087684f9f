import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation_fakes import MODEL, make_curve, make_results, render
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from laser_dist.evaluation import report
from laser_dist.evaluation.example_clips import choose_examples
from laser_dist.evaluation.metrics import Difference
from laser_dist.evaluation.plots import (
    agreement,
    error_distribution,
    learning_curves,
    predictor_style,
    rate_curve,
    residuals,
)
from laser_dist.evaluation.quality_curves import QualityCurve
from laser_dist.evaluation.results import to_csv, to_json
from laser_dist.evaluation.trained_run import Curve
from laser_dist.jnd.scale import QF

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """A parser that collects elements in order and fails on unbalanced tags."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style", "pre"} & set(self.open):
            self.texts.append(data)

    def all(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]


@pytest.fixture(scope="module")
def results():
    return make_results(24)


@pytest.fixture(scope="module")
def html(results):
    return render(results)


def test_the_page_loads_nothing(html):
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    for attrs in Page(html).all("img", "link", "script", "use", "image", "iframe"):
        for name in ("src", "href", "srcset"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))


@pytest.mark.attack("Report")
def test_the_policy_allows_the_pages_script_and_no_other_source(html):
    (policy,) = [
        attrs["content"]
        for attrs in Page(html).all("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    # A browser hashes all that is between the tags.
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert "addEventListener" in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert dict(part.split(" ", 1) for part in policy.split("; ")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # In force before anything that it governs.
    assert html.index("Content-Security-Policy") < html.index("<title>")
    assert not [attrs for _, attrs in Page(html).elements for name in attrs if name[:2] == "on"]


def test_the_page_is_well_formed_and_every_image_has_an_alt_text(html):
    page = Page(html)
    assert page.open == []
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all(
        attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in page.all("svg")
    )
    assert len(page.all("h1")) == 1
    # Three clips: raw, and at three levels encoded and from the backbone. And 24 thumbnails.
    assert len(page.all("img")) == 3 * 7 + 24


def test_ids_are_unique_and_every_reference_has_a_target(html):
    ids = [attrs["id"] for _, attrs in Page(html).elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"|aria-labelledby="([^"]+)"', html)
    assert {one for found in references for one in found if one} <= set(ids)


@pytest.mark.parametrize("simulated", [True, False])
def test_the_banner_is_shown_only_for_simulated_viewers(simulated):
    html = render(make_results(6, simulated=simulated))
    assert ('class="simulated-banner"' in html) == simulated
    assert ("Simulated viewers." in html) == simulated


@pytest.fixture(scope="module")
def qf_html():
    """Return a report in quality factors: one example clip lacks two levels, another clip all."""
    info = {"scale": QF, "level_definition": "the QF at which a quarter of the viewers notice"}
    complete = make_results(12, **info)
    lowest = choose_examples(complete.network.abs_errors[:, 0])["lowest"]
    other = (lowest + 1) % 12
    gaps = [(lowest, 1), (lowest, 2), *((other, level) for level in range(3))]
    return render(make_results(12, gaps=gaps, **info))


def test_a_report_in_quality_factors_does_not_mention_qp(qf_html, html):
    text = re.sub(r"data:image/[^\"]*", "", qf_html)
    assert "QP" not in text
    for shown in (
        "Mean absolute error |ΔQF|",
        "True QF",
        "Absolute error, QF",
        "a lower QF is coarser",
        "Bits saved compared with QF&nbsp;100",
    ):
        assert shown in text
    assert "a higher QP is coarser" in html
    assert "Bits saved compared with QP&nbsp;1" in html


def test_a_missing_level_is_marked_and_has_no_frame(qf_html):
    page = Page(qf_html)
    assert page.open == []
    assert qf_html.count("no level in the labels") == 2
    assert len(page.all("img")) == 3 * 7 - 2 + 12
    assert not re.search(r"\bnan\b", re.sub(r"data:image/[^\"]*", "", qf_html), re.IGNORECASE)


def test_unknown_sizes_are_counted_and_without_sizes_there_is_no_table(results):
    some = replace(results, bits_saved=replace(results.bits_saved, num_left_out=3, finest=None))
    html = report.render(some)
    assert "Bits saved compared with the finest encoding of each clip" in html
    assert "(sizes unknown for 3 clips)" in html
    none = replace(results, bits_saved=replace(results.bits_saved, num_sources=0))
    assert "Bits saved" not in report.render(none)


def test_no_placeholder_color_is_left(html):
    assert not re.search(r"#(0[1-9])\1\1", html)


def test_the_tables_show_the_results(html, results):
    for one in results.predictors.values():
        for value in (*one.score.abs_error, *one.score.abs_psnr_error_db):
            assert f"<td>{value:.2f}<small>" in html


def test_the_same_results_give_the_same_page(html, results):
    assert render(results) == html


@pytest.mark.attack("Report")
def test_names_are_escaped(results):
    odd = replace(results, provenance=replace(results.provenance, run="<script>alert(1)</script>"))
    html = report.render(odd)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_metrics_without_a_title_are_not_drawn(results, html):
    assert "heads: JND1 error" in html
    assert "learning_rate" not in html


def test_clips_and_learning_curves_are_optional(results):
    html = report.render(results)
    assert Page(html).open == []
    assert 'id="clips"' not in html
    assert 'id="learning"' not in html


def test_the_report_of_a_single_level_shows_only_that_level():
    html = render(make_results(12, model="e2e-lat", levels=(2,)))
    page = Page(html)
    assert page.open == []
    assert "E2E\N{NON-BREAKING HYPHEN}LAT has a mean error of" in html
    assert "The network predicts JND2 from" in html
    assert "a backbone and a head are trained together" in html
    # Three clips: raw, encoded at the level, and from the backbone.
    assert len(page.all("img")) == 3 * 3 + 12
    labels = [attrs.get("aria-label") or "" for attrs in page.all("svg")]
    assert [one[:4] for one in labels if "against the true QP" in one] == ["JND2"]
    assert not re.search(r"\bnan\b", re.sub(r"data:image/[^\"]*", "", html), re.IGNORECASE)


def test_sur_curves_are_shown_if_the_network_predicts_spreads(html):
    assert "atisfied-user ratio" not in html
    results = make_results(12, spread=2.5)
    page = render(results)
    labels = [attrs.get("aria-label") or "" for attrs in Page(page).all("svg")]
    assert sum("satisfied-user ratio over QP" in one for one in labels) == 3
    for one in results.sur.predictors.values():
        for value in one.score.wasserstein:
            assert f"<td>{value:.2f}<small>" in page
    assert Page(page).open == []


@pytest.mark.parametrize("num_sources", [1, 2])
def test_a_report_needs_only_one_test_source(num_sources):
    html = render(make_results(num_sources))
    assert html.count('<article class="clip"') == num_sources


def with_ratio(results, ratio, interval):
    own = results.predictors[MODEL]
    changed = replace(own.score, ratio_to_constant=ratio, ratio_to_constant_interval=interval)
    return replace(results, predictors={**results.predictors, MODEL: replace(own, score=changed)})


@pytest.mark.parametrize(
    ("ratio", "interval", "claim"),
    [
        (0.71, (0.6, 0.8), "29% less than the constant baseline (95% interval 20% to 40%)"),
        (0.93, (0.8, 1.1), "not significant (ratio 0.93, 95% interval 0.80 to 1.10)"),
        (1.25, (1.1, 1.4), "25% more than the constant baseline (95% interval 10% to 40%)"),
        (float("nan"), (float("nan"),) * 2, "has no error"),
    ],
)
def test_the_headline_depends_on_the_interval_of_the_ratio(results, ratio, interval, claim):
    sentence = report.headline(with_ratio(results, ratio, interval))
    assert claim in sentence
    start = "On 24 clips from 8 films held out from training, MJ-LAT has a mean error of "
    assert sentence.startswith(start)


@pytest.mark.parametrize(
    ("split_by", "group_ids", "text"),
    [
        ("footage", ["a", "a", "b", "b", "c", "d"], "6 clips from 4 photographs or videos"),
        ("film", ["a"] * 6, "6 clips from 1 film"),
        ("", ["a", "a", "b", "b", "c", "c"], "6 clips from 3 groups"),
        ("source", list("abcdef"), "6 clips held out"),
    ],
)
def test_the_headline_names_the_groups_that_clips_come_from(split_by, group_ids, text):
    made = make_results(6, split_by=split_by)
    made = replace(made, test=replace(made.test, group_ids=tuple(group_ids)))
    assert f"On {text} " in report.headline(made) + " "


def test_without_an_interval_the_headline_compares_nothing(results):
    sentence = report.headline(with_ratio(results, 0.5, (float("nan"),) * 2))
    assert "one group is too few for a comparison" in sentence
    assert "less" not in sentence


@given(st.lists(st.floats(0, 30), min_size=1, max_size=20))
def test_example_clips_have_the_lowest_median_and_highest_error(errors):
    values = np.array(errors)
    chosen = choose_examples(values)
    assert len(set(chosen.values())) == len(chosen) == min(3, len(errors))
    assert values[chosen["lowest"]] == values.min()
    assert values[chosen.get("highest", 0)] == values.max()
    if "median" in chosen:
        assert values[chosen["median"]] == np.quantile(values, 0.5, method="lower")


def test_a_clip_without_levels_is_not_an_example():
    assert choose_examples(np.array([np.nan, 3.0, np.nan, 1.0])) == {"lowest": 3, "highest": 1}
    assert choose_examples(np.array([np.nan])) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.04, "0.0"), (0.04, "0.0"), (-0.06, "\N{MINUS SIGN}0.1"), (0.06, "+0.1"), (np.nan, "–")],
)
def test_signed_numbers_have_no_negative_zero(results, value, text):
    template = report._template().environment.from_string("{{ value | signed }}")
    assert template.render(value=value) == text


def test_learning_curves_have_ticks_at_whole_epochs_only():
    (drawing,) = learning_curves([Curve("jnd1", "loss", np.arange(1, 3), np.array([3.0, 4.0]))])
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawing)
    assert labels[: labels.index("Epoch")] == ["1", "2"]


def test_a_stage_of_one_epoch_is_a_row_of_a_table_and_no_plot_of_one_point(results):
    one = np.array([1])
    curves = [
        Curve("jnd1", "loss", one, np.array([0.1234])),
        Curve("jnd1", "val_loss", one, np.array([0.5678])),
    ]
    assert learning_curves(curves) == ()
    html = report.render(results, curves)
    assert (
        '<th scope="row">jnd1</th><td class="left">loss</td><td>0.1234</td><td>0.5678</td>' in html
    )
    assert "Learning curve of stage" not in html


@pytest.mark.parametrize("num_sources", [1, 2])
def test_a_single_clip_has_no_scatter_plot_and_no_distribution(num_sources):
    made = make_results(num_sources)
    assert len(agreement(made)) == len(error_distribution(made)) == (0 if num_sources == 1 else 3)


def test_a_rate_curve_of_one_quantizer_is_not_drawn(results):
    curve = make_curve()
    one = QualityCurve(
        *(values[20:21] for values in (curve.quantizers, curve.psnr_rgb_db, curve.num_bits))
    )
    assert rate_curve(results, 0, one) == ""
    unknown = replace(curve, num_bits=np.full_like(curve.num_bits, np.nan))
    assert rate_curve(results, 0, unknown) == ""
    assert rate_curve(results, 0, curve).count("<svg") == 1


def test_a_clip_has_a_bit_rate_and_an_image_a_size(results):
    # The fake curve has 10 Mbit at QP 0, which halve every 6 QP, in 5 seconds.
    row = 3
    true = results.test.levels[row, 0]
    rate = 1e7 * 2 ** (-true / 6) / 5 / 1000
    assert results.true_bitrate_kbps[row, 0] == pytest.approx(
        rate * (1 + results.test.activity[row, 0])
    )
    video, image = (
        rate_curve(results, row, replace(make_curve(), seconds=seconds))
        for seconds in (5.0, float("nan"))
    )
    assert f"JND1 viewers {rate:.3g} kbit/s" in video
    assert ">Bit rate, kbit/s<" in video
    assert f"JND1 viewers {rate * 5 / 8:.3g} kB" in image
    assert ">Size, kB<" in image


def test_groups_are_listed_with_their_errors_the_worst_first(html, results):
    rows = report.group_rows(results)
    errors = [row.mean_abs_error for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert sum(row.num_sources for row in rows) == 24
    own = rows[0]
    members = np.array(results.test.group_ids) == own.group_id
    expected = (results.network.predicted - results.test.levels)[members]
    np.testing.assert_allclose(own.bias, expected.mean(axis=0))
    np.testing.assert_allclose(own.mean_abs_error, np.abs(expected).mean())
    assert f'<th scope="row">{own.group_id}</th>' in html
    alone = replace(results.test, group_ids=results.test.source_ids)
    assert report.group_rows(replace(results, test=alone)) == ()


def test_errors_are_drawn_over_the_content_that_differs(results):
    spatial, temporal = residuals(results)
    errors = (results.network.predicted - results.test.levels).mean(axis=1)
    for drawing, values in zip((spatial, temporal), results.test.activity.T, strict=True):
        correlation = stats.pearsonr(values, errors).statistic
        assert f"r {correlation:.2f}".replace("-", "\N{MINUS SIGN}") in drawing
    still = replace(results.test, activity=results.test.activity * [1, 0])
    assert len(residuals(replace(results, test=still))) == 1


def test_published_errors_are_next_to_those_on_videoset_only():
    real = make_results(12, simulated=False, simulation="")
    page = report.render(real)
    assert page.count(">Published</abbr>") == 2
    assert ">Published</abbr></th><td>1.57</td>" in page
    assert ">Published</abbr></th><td>0.72</td>" in page
    for other in (make_results(12), make_results(12, simulated=False, name="mcl_jci_jnd")):
        assert ">Published<" not in report.render(other)


@pytest.mark.parametrize(("fixture", "option"), [("html", "-qp"), ("qf_html", "-quality")])
def test_an_example_has_the_encoders_option_for_its_predicted_levels(fixture, option, request):
    page = request.getfixturevalue(fixture)
    predicted = re.findall(rf"<td>([\d.]+)<small>{option}&nbsp;(\d+)</small></td>", page)
    assert len(predicted) == 3 * 3
    for level, quantizer in predicted:
        # The finer side: down in QP, up in quality factors. The level is shown rounded to 0.1.
        finer = (float(level) - int(quantizer)) * (1 if option == "-qp" else -1)
        assert -0.05 <= finer < 1.05


def downloads(html):
    return {
        attrs["download"]: base64.b64decode(attrs["href"].split(",")[1]).decode()
        for attrs in Page(html).all("a")
        if "download" in attrs
    }


def test_the_page_contains_its_data_as_files(html, results):
    files = downloads(html)
    assert files == {"results.json": to_json(results), "predictions.csv": to_csv(results)}


def test_the_numbers_of_the_page_are_those_of_the_results_file(html):
    text = re.sub(r"\s+", " ", " ".join(Page(html).texts)).replace("\N{MINUS SIGN}", "-")
    stored = json.loads(downloads(html)["results.json"])
    for name, score in stored["predictors"].items():
        label = predictor_style(name).label
        for level in range(3):
            bias, rmse = f"{score['bias'][level]:z.2f}", f"{score['rmse'][level]:.2f}"
            # The interval is between the two.
            assert re.search(rf"{label} \+?{bias} [^%]{{9,20}} {rmse} ", text), (name, level)
            shares = " ".join(f"{100 * each[level]:.0f}%" for each in score["overshoot"].values())
            bits = (
                f"{100 * score['extra_bits'][level]:.1f}% {100 * score['missing_bits'][level]:.1f}%"
            )
            assert f"{label} {shares} {bits}" in text
            within = " ".join(f"{100 * values[level]:.0f}%" for values in score["within"].values())
            assert within in text
    margin = stored["predictors"][MODEL]["margin"]
    for step, safe, extra in zip(
        margin["margins"], margin["safe"], margin["extra_bits"], strict=True
    ):
        cells = " ".join(
            f"{100 * one:.0f}% {100 * other:+.0f}%" for one, other in zip(safe, extra, strict=True)
        )
        assert f"{step} {cells}" in text


def test_each_clip_has_a_row_that_can_be_sorted(html, results):
    table = html[html.index('<table class="sortable">', html.index('id="all-clips"')) :]
    table = table[: table.index("</table>")]
    headers = re.findall(r"<th scope=\"col\"[^>]*>", table)
    rows = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], re.S)
    cells = [re.findall(r'<td data-value="([^"]*)">', row) for row in rows]
    assert len(rows) == 24
    # Per level: true, predicted and error; then the mean error, that in dB, and the bit rate.
    values = np.array(cells, np.float64)
    assert values.shape == (24, 3 * 3 + 3)
    assert len(headers) == 3 + values.shape[1]
    assert table.count("aria-sort") == len(headers) - 1  # pictures have no order
    np.testing.assert_allclose(values[:, 2:9:3], values[:, 1:9:3] - values[:, 0:9:3], atol=2e-4)
    np.testing.assert_allclose(values[:, 9], np.abs(values[:, 2:9:3]).mean(axis=1), atol=2e-4)
    assert list(values[:, 9]) == sorted(values[:, 9], reverse=True)
    assert {re.search(r'<th scope="row">(\w+)', row)[1] for row in rows} == set(
        results.test.source_ids
    )


def test_no_number_is_a_negative_zero(results):
    network = results.predictors[MODEL]
    score = replace(
        network.score,
        bias=(-0.001,) * 3,
        bias_interval=((-0.004, 0.2),) * 3,
        pearson=(-0.001,) * 3,
        extra_bits=(-0.0001,) * 3,
        differences={name: Difference(-0.001, (-0.001, 0.001)) for name in results.predictors},
        margin=replace(network.score.margin, extra_bits=((-0.001,) * 3,) * 11),
    )
    # Predictions just below the viewers' levels.
    close = replace(network, predicted=results.test.levels - 0.01, score=score)
    html = render(replace(results, predictors={**results.predictors, MODEL: close}))
    texts = Page(html).texts + [
        value for tag in Page(html).all("svg") if (value := tag.get("aria-label"))
    ]
    assert "0.00" in " ".join(texts)
    zero = re.compile(r"(?<![\w.])[-\N{MINUS SIGN}]0(\.0+)?(?![\d.])")
    assert [one for one in texts if zero.search(one)] == []


def test_several_networks_are_drawn_differently():
    names = ["mj-lat#1", "mj-lat#2", "rec", "constant", "one-encode"]
    styles = [predictor_style(name, names) for name in names]
    assert len({(style.color, style.dash) for style in styles}) == len(names)
    assert len({(style.color, style.marker) for style in styles}) == len(names)
    assert [style.label for style in styles[:3]] == ["MJ-LAT#1", "MJ-LAT#2", "REC"]


def test_notes_on_the_models_are_at_the_top(results):
    note = "mj-lat was trained on <another> dataset."
    made = replace(results, provenance=replace(results.provenance, notes=(note,)))
    html = report.render(made)
    assert html.index("mj-lat was trained on &lt;another&gt; dataset.") < html.index("<section")
