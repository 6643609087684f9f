import argparse
import io
import re
from dataclasses import replace

import pytest

from laser_dist.commands import synthesize
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError

pytestmark = [
    pytest.mark.beam,
    # Beam's own use of the packages that it asks for.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
]


def settings_for(*arguments):
    parser = argparse.ArgumentParser()
    synthesize.add_arguments(parser)
    return synthesize.settings_of(parser.parse_args(arguments))


def test_each_kind_has_its_own_settings():
    assert settings_for().num_sources == 600
    assert settings_for("--qps", "20,30").qps == (20, 30)
    images = settings_for("--kind", "mcl-jci", "--seed", "3")
    assert (images.num_sources, images.seed) == (96, 3)
    assert images.qfs == tuple(range(1, 101))


def test_synthetic_mcl_jci_is_created_once_and_not_reused_as_videoset(tmp_path, caplog):
    settings = settings_for("--kind", "mcl-jci", "--num-sources", "2")
    settings = replace(settings, width=64, height=48)
    footage, _ = synthesize.find_footage(None, None, num_frames=1)
    said = []
    caplog.set_level("INFO")
    for _ in range(2):
        file = io.StringIO()
        synthesize.make_or_reuse(Terminal(file), footage, settings, tmp_path / "mini", workers=1)
        said.append(file.getvalue())
    first, again = said
    assert len(list((tmp_path / "mini").rglob("*.jpg"))) == 200
    assert "2 images of 64x48, at 100 quality factors" in first
    assert "2 groups of related images" in first
    for level in ("JND1", "JND2", "JND3"):
        assert re.search(rf"{level} +QF \d+\.\d, standard deviation \d+\.\d; \d+\.\d% of", first)
    assert "SIMULATED" in first
    assert again == first
    assert "Reused " in caplog.text
    with pytest.raises(UserError, match="of kind mcl-jci, not videoset"):
        synthesize.make_or_reuse(Terminal(file), footage, settings_for(), tmp_path / "mini")
