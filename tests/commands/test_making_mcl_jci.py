import argparse
import io
import re
from dataclasses import replace

import pytest

from laser_dist.commands import miniature
from laser_dist.commands.terminal import Terminal
from laser_dist.errors import UserError

pytestmark = [
    pytest.mark.beam,
    # Beam's own use of the packages that it asks for.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam"),
]


def settings_for(*arguments):
    parser = argparse.ArgumentParser()
    miniature.add_arguments(parser)
    return miniature.settings_of(parser.parse_args(arguments))


def test_each_kind_has_its_own_settings():
    assert settings_for().num_sources == 600
    assert settings_for("--qps", "20,30").qps == (20, 30)
    images = settings_for("--like", "mcl-jci", "--seed", "3")
    assert (images.num_sources, images.seed) == (96, 3)
    assert images.qfs == tuple(range(1, 101))


def test_a_miniature_mcl_jci_is_made_once_and_not_taken_for_videosets(tmp_path):
    settings = settings_for("--like", "mcl-jci", "--num-sources", "2")
    settings = replace(settings, width=64, height=48)
    footage, _ = miniature.find_footage(None, None, num_frames=1)
    said = []
    for _ in range(2):
        file = io.StringIO()
        miniature.make_or_reuse(Terminal(file), footage, settings, tmp_path / "mini", workers=1)
        said.append(file.getvalue())
    first, again = said
    assert len(list((tmp_path / "mini").rglob("*.jpg"))) == 200
    assert "2 images of 64x48, at 100 quality factors" in first
    assert "2 groups of images that share it" in first
    for level in ("JND1", "JND2", "JND3"):
        assert re.search(rf"{level} +QF \d+\.\d, standard deviation \d+\.\d; \d+\.\d% of", first)
    assert "SIMULATED" in first
    assert again.endswith(first)
    assert "Reused: " in again.removesuffix(first)
    with pytest.raises(UserError, match="got one like mcl-jci, not videoset. Name another folder"):
        miniature.make_or_reuse(Terminal(file), footage, settings_for(), tmp_path / "mini")
