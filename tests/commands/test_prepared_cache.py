"""The cache directory of a user, prepared by another user before a command first uses it."""

import os

import numpy as np
import pytest
from command_line import laser_jnd_here, refusal
from PIL import Image

pytestmark = pytest.mark.attack("Cache directory")


@pytest.fixture
def victim(tmp_path):
    """A folder of the user that has nothing to do with laser-jnd."""
    folder = tmp_path / "victim"
    (folder / "models").mkdir(parents=True)
    for path in (folder / "a.txt", folder / "models" / "b.keras"):
        path.write_text("mine")
    return folder


def link(cache, victim):
    cache.symlink_to(victim)
    return "it is a link"


def give_away(cache, _):
    cache.mkdir(mode=0o700)
    os.chown(cache, 65534, 65534)
    return "it belongs to another user"


def open_up(cache, _):
    cache.mkdir()
    cache.chmod(0o777)
    return "open to other users"


@pytest.mark.parametrize("prepare", [link, give_away, open_up])
@pytest.mark.parametrize(
    "command",
    [
        ("predict", "clip.png", "--model"),
        ("evaluate", "--dataset", "data", "--output", "out", "--model"),
        ("train", "lat", "--dataset", "data", "--output", "run", "--init-from"),
    ],
    ids=lambda command: command[0],
)
def test_it_is_refused_and_nothing_is_written_or_removed(
    s3, tmp_path, monkeypatch, victim, command, prepare
):
    if prepare is give_away and os.geteuid() != 0:
        pytest.skip("only root can make a folder of another user")
    for name in ("config.json", "models/predictor.keras", "models/jnd1.keras"):
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    s3.upload(tmp_path / "there", "run")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "clip.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    reason = prepare(tmp_path / "cache" / "laser-jnd", victim)
    before = {path: path.stat().st_mtime_ns for path in victim.rglob("*")}
    text = refusal(laser_jnd_here(*command, s3.url("run"), cwd=tmp_path))
    assert reason in text
    assert {path: path.stat().st_mtime_ns for path in victim.rglob("*")} == before
    assert not (tmp_path / "run").exists()
