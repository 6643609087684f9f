import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation_fakes import MODEL, make_inputs, make_results
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.evaluation import exemplars, report
from laser_dist.jnd.scale import QF


class Page(HTMLParser):
    """Elements and their attributes, in order; fails on tags that do not match."""

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
    return report.render(make_inputs(results))


def test_the_page_loads_nothing(html):
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    for attrs in Page(html).all("img", "link", "script", "use", "image", "iframe"):
        for name in ("src", "href", "srcset"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))


def test_the_page_is_well_formed_and_every_picture_is_described(html):
    page = Page(html)
    assert page.open == []
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all(
        attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in page.all("svg")
    )
    assert len(page.all("h1")) == 1
    # Three clips, each raw and at three levels as coded and as the backbone imagines it.
    assert len(page.all("img")) == 3 * 7


def test_no_id_stands_twice_and_every_reference_is_met(html):
    ids = [attrs["id"] for _, attrs in Page(html).elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"|aria-labelledby="([^"]+)"', html)
    assert {one for found in references for one in found if one} <= set(ids)


@pytest.mark.parametrize("simulated", [True, False])
def test_the_banner_stands_exactly_where_viewers_are_simulated(simulated):
    html = report.render(make_inputs(make_results(6, simulated=simulated)))
    assert ('class="simulated-banner"' in html) == simulated
    assert ("Simulated viewers." in html) == simulated


@pytest.fixture(scope="module")
def qf_html():
    """Of quality factors; one of the clips shown lacks two levels, and another clip all."""
    info = {"scale": QF, "level_definition": "the QF at which a quarter of the viewers notice"}
    whole = make_results(12, **info)
    lowest = exemplars.choose(whole.predictors[MODEL].errors.levels[:, 0])["lowest"]
    other = (lowest + 1) % 12
    gaps = [(lowest, 1), (lowest, 2), *((other, level) for level in range(3))]
    return report.render(make_inputs(make_results(12, gaps=gaps, **info)))


def test_a_quality_factor_is_never_called_a_qp(qf_html, html):
    text = re.sub(r"data:image/[^\"]*", "", qf_html)
    assert "QP" not in text
    for shown in (
        "Mean absolute error, QF",
        "True QF",
        "Absolute error, QF",
        "a lower QF is coarser",
        "Bits saved, against QF&nbsp;100",
    ):
        assert shown in text
    assert "a higher QP is coarser" in html
    assert "Bits saved, against QP&nbsp;1" in html


def test_a_missing_level_is_told_and_not_shown(qf_html):
    page = Page(qf_html)
    assert page.open == []
    assert qf_html.count("the viewers have none") == 2
    assert len(page.all("img")) == 3 * 7 - 2
    assert not re.search(r"\bnan\b", re.sub(r"data:image/[^\"]*", "", qf_html), re.IGNORECASE)


def test_bits_that_are_not_known_are_told_and_without_any_there_is_no_table(results):
    some = replace(results, bits_saved=replace(results.bits_saved, num_left_out=3, finest=None))
    html = report.render(report.ReportInputs(results=some))
    assert "Bits saved, against the finest coded" in html
    assert "the bits of 3 clips are not known" in html
    none = replace(results, bits_saved=replace(results.bits_saved, num_sources=0))
    assert "Bits saved" not in report.render(report.ReportInputs(results=none))


def test_no_stand_in_color_is_left(html):
    assert not re.search(r"#(0[1-9])\1\1", html)


def test_the_table_holds_the_figures_of_the_results(html, results):
    for one in results.predictors.values():
        for value in (*one.score.abs_error, *one.score.abs_psnr_error_db):
            assert f"<td>{value:.2f}<small>" in html


def test_the_same_inputs_give_the_same_page(html, results):
    assert report.render(make_inputs(results)) == html


def test_names_are_text_and_never_markup(results):
    odd = replace(results, run="<script>alert(1)</script>")
    html = report.render(report.ReportInputs(results=odd))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_what_is_logged_and_has_no_name_on_the_page_is_not_drawn(results, html):
    assert "heads: JND1 error" in html
    assert "learning_rate" not in html


def test_without_clips_and_curves_the_page_is_whole(results):
    html = report.render(report.ReportInputs(results=results))
    assert Page(html).open == []
    assert 'id="clips"' not in html
    assert 'id="learning"' not in html


def test_a_predictor_of_one_level_says_so_and_shows_it_alone():
    html = report.render(make_inputs(make_results(12, model="e2e-lat", levels=(2,))))
    page = Page(html)
    assert page.open == []
    assert "E2E\N{NON-BREAKING HYPHEN}LAT is off by" in html
    assert "names JND2." in html
    assert "backbone and head together" in html
    # Three clips, each raw, coded at the level and as the backbone imagines it.
    assert len(page.all("img")) == 3 * 3
    labels = [attrs.get("aria-label") or "" for attrs in page.all("svg")]
    assert [one[:4] for one in labels if "predicted against true" in one] == ["JND2"]
    assert not re.search(r"\bnan\b", re.sub(r"data:image/[^\"]*", "", html), re.IGNORECASE)


def test_curves_of_satisfied_viewers_stand_where_the_model_gives_spreads(html):
    assert "Satisfied viewers" not in html
    results = make_results(12, spread=2.5)
    told = report.render(make_inputs(results))
    labels = [attrs.get("aria-label") or "" for attrs in Page(told).all("svg")]
    assert sum("share of satisfied viewers" in one for one in labels) == 3
    for one in results.sur.predictors.values():
        for value in one.score.abs_difference:
            assert f"<td>{value * 100:.1f}\N{NO-BREAK SPACE}%<small>" in told
    assert Page(told).open == []


@pytest.mark.parametrize("num_sources", [1, 2])
def test_few_test_sources_make_a_page_all_the_same(num_sources):
    html = report.render(make_inputs(make_results(num_sources)))
    assert html.count('<article class="clip"') == num_sources


def with_ratio(results, ratio, interval):
    own = results.predictors[MODEL]
    changed = replace(own.score, ratio_to_constant=ratio, ratio_to_constant_interval=interval)
    return replace(results, predictors={**results.predictors, MODEL: replace(own, score=changed)})


@pytest.mark.parametrize(
    ("ratio", "interval", "claim"),
    [
        (0.71, (0.6, 0.8), "29\N{NO-BREAK SPACE}% less than"),
        (0.93, (0.8, 1.1), "no reliable gain"),
        (1.25, (1.1, 1.4), "25\N{NO-BREAK SPACE}% more than"),
        (float("nan"), (float("nan"),) * 2, "makes no error"),
    ],
)
def test_the_headline_claims_no_more_than_its_interval(results, ratio, interval, claim):
    sentence = report.headline(with_ratio(results, ratio, interval))
    assert claim in sentence
    assert sentence.startswith("On 24 clips it never saw, MJ-LAT is off by ")


@given(st.lists(st.floats(0, 30), min_size=1, max_size=20))
def test_chosen_clips_are_lowest_median_and_highest(errors):
    values = np.array(errors)
    chosen = exemplars.choose(values)
    assert len(set(chosen.values())) == len(chosen) == min(3, len(errors))
    assert values[chosen["lowest"]] == values.min()
    assert values[chosen.get("highest", 0)] == values.max()
    if "median" in chosen:
        assert values[chosen["median"]] == np.quantile(values, 0.5, method="lower")


def test_a_clip_without_any_level_is_not_chosen():
    assert exemplars.choose(np.array([np.nan, 3.0, np.nan, 1.0])) == {"lowest": 3, "highest": 1}
    assert exemplars.choose(np.array([np.nan])) == {}
