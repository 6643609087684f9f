import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation_fakes import MODEL, make_results, render
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.evaluation import report
from laser_dist.evaluation.example_clips import choose_examples
from laser_dist.evaluation.plots import learning_curves
from laser_dist.evaluation.trained_run import Curve
from laser_dist.jnd.scale import QF


class Page(HTMLParser):
    """A parser that collects elements in order and fails on unbalanced tags."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

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
    # Three clips: raw, and at three levels encoded and from the backbone.
    assert len(page.all("img")) == 3 * 7


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
    assert len(page.all("img")) == 3 * 7 - 2
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
    assert len(page.all("img")) == 3 * 3
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
        (0.71, (0.6, 0.8), "29% less than the constant"),
        (0.93, (0.8, 1.1), "not significant"),
        (1.25, (1.1, 1.4), "25% more than the constant"),
        (float("nan"), (float("nan"),) * 2, "has no error"),
    ],
)
def test_the_headline_depends_on_the_interval_of_the_ratio(results, ratio, interval, claim):
    sentence = report.headline(with_ratio(results, ratio, interval))
    assert claim in sentence
    assert sentence.startswith("On 24 clips held out from training, MJ-LAT has a mean error of ")


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


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_learning_curves_have_ticks_at_whole_epochs_only(num_epochs):
    epochs = np.arange(1, num_epochs + 1)
    (drawing,) = learning_curves([Curve("jnd1", "loss", epochs, 2.0 + epochs)])
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawing)
    x_labels = labels[: labels.index("Epoch")]
    assert x_labels == [str(epoch) for epoch in epochs]
