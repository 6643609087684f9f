"""The documentation site builds without warnings and is complete."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from laser_dist.commands.main import COMMANDS
from laser_dist.training.config import describe_settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
# Attributes through which a browser loads something by itself.
LOADED = re.compile(
    r'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc="?(https?:)?//|'
    r'<link\b(?=[^>]*\brel="?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref="?(?:https?:)?//'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it: a broken link is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_no_page_loads_anything_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [page.name for page in pages if LOADED.search(page.read_text())] == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert not any(re.search(r"url\([\"']?(?:https?:)?//|@import", style) for style in styles)


def test_the_command_reference_has_every_command_and_option(site):
    text = text_of(site / "reference" / "cli.html")
    for name in COMMANDS:
        assert f"laser-jnd {name}" in text
    assert "--max-reject-rate" in text
    assert "==SUPPRESS==" not in text


def test_the_settings_reference_has_every_setting(site):
    text = text_of(site / "reference" / "settings.html")
    assert {each.path for each in describe_settings() if each.path not in text} == set()


def test_the_python_reference_has_signatures(site):
    page = (site / "reference" / "python.html").read_text()
    assert 'id="laser_dist.jnd.sur.sur_curve"' in page
    assert "Returns:" in text_of(site / "reference" / "python.html")


def test_the_benchmark_page_has_every_result(site):
    text = text_of(site / "project" / "benchmarks.html")
    assert RESULTS
    for path in RESULTS:
        assert json.loads(path.read_text())["title"] in text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_benchmark_result_is_complete(path):
    result = json.loads(path.read_text())
    assert result.keys() >= {
        "title", "command", "machine", "date", "simulated", "summary", "tables",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d", result["date"])
    for table in result["tables"]:
        assert table["caption"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_the_readme_states_the_measured_accuracy():
    (row, *_) = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())["tables"][0][
        "rows"
    ]
    stated = (ROOT / "README.md").read_text().partition("Cross-validated")[2].partition("\n\n")[0]
    assert row[0] == "`mj-lat`"
    numbers = re.findall(r"[0-9]+\.[0-9]+", row[5] + row[7])
    assert len(numbers) == 6
    assert re.findall(r"[0-9]+\.[0-9]+", stated) == numbers


def test_a_broken_link_is_found(tmp_path):
    hooks = load("hooks")
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n[good](#a-title) [bad](#other) [gone](gone.md) [web](https://x.y)\n"
    )
    hooks.ROOT = tmp_path
    assert hooks.broken_links(page) == [
        "page.md: #other: no such heading",
        "page.md: gone.md: no such file",
    ]


@pytest.mark.parametrize("dataset", ["videoset_jnd", "mcl_jci_jnd"])
def test_a_card_has_the_features_of_its_builder(dataset):
    generate = load("generate")
    card = generate.card_path(dataset).read_text()
    table = generate.feature_table(dataset)
    assert card == generate.with_features(card, table), "run: python docs/generate.py cards"


@pytest.mark.parametrize("dataset", ["videoset_jnd", "mcl_jci_jnd"])
def test_a_card_cites_its_dataset(dataset):
    folder = ROOT / "tfds_builders" / dataset
    assert (folder / "CITATIONS.bib").read_text().strip() in (folder / "README.md").read_text()


def test_versions_agree():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


def load(name: str):
    """Import a script of `docs/`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
