"""`docs/make_assets.py`, which renders the picture of the report for the documentation."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "docs" / "make_assets.py"


@pytest.fixture
def make_assets():
    spec = importlib.util.spec_from_file_location("make_assets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_missing_report_is_named(make_assets, tmp_path):
    with pytest.raises(FileNotFoundError, match="index.html does not exist"):
        make_assets.render_report(tmp_path / "index.html", tmp_path / "report.png")


def test_a_missing_browser_is_named(make_assets, tmp_path, monkeypatch):
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    (tmp_path / "index.html").write_text("<p>report</p>")
    with pytest.raises(FileNotFoundError, match="no-such-browser"):
        make_assets.render_report(tmp_path / "index.html", tmp_path / "report.png")


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_the_picture_shows_the_page(make_assets, tmp_path):
    (tmp_path / "index.html").write_text("<body style='background: #ff0000'>")
    make_assets.render_report(tmp_path / "index.html", tmp_path / "assets" / "report.png")
    with Image.open(tmp_path / "assets" / "report.png") as image:
        assert image.size == (make_assets.WIDTH, make_assets.HEIGHT)
        assert image.getpixel((10, 10)) == (255, 0, 0)
