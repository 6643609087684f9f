import re

import pytest
from command_line import laser_jnd

pytestmark = [pytest.mark.beam, pytest.mark.slow]


def test_a_miniature_mcl_jci_is_made_once(tmp_path):
    arguments = ("miniature", "--like", "mcl-jci", "--num-sources", "2", "--workers", "1")
    made = laser_jnd(*arguments, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "runs" / "mcl_jci"
    assert len(list(folder.rglob("*.jpg"))) == 200
    assert "2 images of 256x144, at 100 quality factors" in made.stdout
    for level in ("JND1", "JND2", "JND3"):
        assert re.search(rf"{level} +QF \d+\.\d, standard deviation \d+\.\d; \d", made.stdout)
    assert "SIMULATED" in made.stdout
    before = (folder / "SIMULATED.json").stat().st_mtime_ns
    again = laser_jnd(*arguments, cwd=tmp_path)
    assert "Reused: runs/mcl_jci" in again.stdout
    assert (folder / "SIMULATED.json").stat().st_mtime_ns == before
