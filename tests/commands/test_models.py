import argparse
import io

import pytest

from laser_dist.commands import models
from laser_dist.commands.terminal import Terminal

# Published values, except for the multi-level model on frames, which tests/models derives.
PUBLISHED = {
    "lat": ("9,783,225", 8.8),
    "rec": ("8,078,384", 90.6),
    "e2e-lat": ("9,783,225", 8.8),
    "e2e-rec": ("8,078,384", 90.6),
    "mj-lat": ("26,070,091", 25.6),
    "mj-rec": ("13,886,928", 130.0),
}


def printed(preset, columns, monkeypatch):
    """Return the lines that the command prints."""
    file = io.StringIO()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(models, "Terminal", lambda: Terminal(file))
    models.run(argparse.Namespace(preset=preset, debug=False))
    return file.getvalue().splitlines()


def rows_of(lines):
    return {cells[0]: cells[1:] for cells in map(str.split, lines) if len(cells) > 4}


def test_the_published_models_have_the_published_sizes(monkeypatch):
    lines = printed("paper", 80, monkeypatch)
    assert max(map(len, lines)) <= 80
    assert "Frames of 640x352, latents of 40x22 with 192 channels." in lines
    rows = rows_of(lines)
    for name, (parameters, gmac) in PUBLISHED.items():
        assert rows[name][0] == parameters
        assert float(rows[name][2]) == pytest.approx(gmac, abs=0.051)
    # Parameters by hand: encoder 1,443,776 and decoder 1,443,587, all of them trained.
    assert rows["backbone"][:2] == ["2,887,363", "2,887,363"]
    # A frozen backbone is not trained, nor are batch norms' statistics: 2 for each channel of
    # 192, 64, 128, 256 and 512.
    frozen = 1_443_776 + 2 * (192 + 64 + 128 + 256 + 512)
    assert rows["lat"][1] == f"{9_783_225 - frozen:,}"
    assert rows["lat"][3:] == ["head", "image", "jnd1"]
    assert rows["e2e-rec"][3:] == ["all", "image"]
    assert rows["mj-rec"][3:] == ["head", "image", "jnd1", "jnd2", "jnd3"]


def test_the_tiny_models_are_small_and_fit_a_narrow_terminal(monkeypatch):
    lines = printed("tiny", 60, monkeypatch)
    assert max(map(len, lines)) <= 60
    rows = rows_of(lines)
    assert rows.keys() >= {"backbone", *PUBLISHED}
    assert all(
        int(row[0].replace(",", "")) < 2e6 for name, row in rows.items() if name in PUBLISHED
    )
