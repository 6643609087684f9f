import os
import subprocess
import sys
from unittest.mock import patch

import pytest

from laser_dist.commands.logs import prepare_environment
from laser_dist.commands.terminal import Terminal

# One record of this project and one of a library at each level.
SPEAK = """
import logging, sys, warnings
from pathlib import Path
from laser_dist.commands import logs
logs.set_up(verbosity=int(sys.argv[1]), log_file=Path(sys.argv[2]) if sys.argv[2:] else None)
for name in ("laser_dist.video", "library"):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)(f"{name} {level}")
warnings.warn("a deprecation")
print("result")
"""
OURS = ["laser_dist.video debug", "laser_dist.video info", "warning: laser_dist.video warning",
        "error: laser_dist.video error"]  # fmt: skip
LIBRARIES = ["library debug", "library info", "warning: library warning", "error: library error"]


def speak(*arguments):
    command = [sys.executable, "-c", SPEAK, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


def test_control_characters_are_escaped_in_lines_and_files(tmp_path):
    speak_of = SPEAK.replace("a deprecation", "a\\x1b[31mred")
    command = [sys.executable, "-c", speak_of, "2", str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for text in (done.stderr, (tmp_path / "log").read_text()):
        assert r"a\x1b[31mred" in text
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (-1, OURS[2:] + LIBRARIES[3:]),
        (0, OURS[1:] + LIBRARIES[3:]),
        (1, OURS + LIBRARIES[1:]),
        (2, OURS + LIBRARIES),
    ],
)
def test_each_verbosity_shows_its_levels_on_standard_error(verbosity, expected):
    done = speak(verbosity)
    assert done.stdout == "result\n"
    warned = [line for line in done.stderr.splitlines() if "deprecation" in line]
    assert len(warned) == (verbosity > 0)
    assert done.stderr.splitlines()[: len(expected)] == expected


def test_the_log_file_gets_more_than_the_terminal(tmp_path):
    done = speak(-1, tmp_path / "log")
    assert done.stderr.splitlines() == OURS[2:] + LIBRARIES[3:]
    text = (tmp_path / "log").read_text()
    for logged in ("DEBUG laser_dist.video: ", "INFO library: ", "a deprecation"):
        assert logged in text
    assert "library debug" not in text


@pytest.mark.parametrize(("uses_cloud", "value"), [(False, "true"), (True, None)])
def test_the_metadata_server_of_a_cloud_is_asked_only_for_urls(uses_cloud, value):
    with patch.dict(os.environ):
        os.environ.pop("NO_GCE_CHECK", None)
        prepare_environment(uses_cloud=uses_cloud)
        assert os.environ.get("NO_GCE_CHECK") == value
        os.environ["NO_GCE_CHECK"] = "set by the user"
        prepare_environment(uses_cloud=uses_cloud)
        assert os.environ["NO_GCE_CHECK"] == "set by the user"


def test_progress_in_a_file_states_the_time_left(monkeypatch, caplog):
    """Half of what is seen after 10 s takes another 10 s; so for what is next."""
    clock = iter([0.0, 0.0, 10.0, 20.0, 20.0, 25.0, 30.0, 31.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("laser_dist.commands.terminal.SECONDS_BETWEEN_LINES", 0)
    caplog.set_level("INFO")
    with Terminal().progress() as show:
        show("encoding", 20, 100)
        show("encoding", 60, 100)
        show("loading")
        show("comparing", 0, 100)
        show("comparing", 50, 100)
        show("packaging", 0, 100)
        show("packaging", 20, 100)
    assert [record.getMessage().strip() for record in caplog.records] == [
        "encoding  20/100",
        "encoding  60/100, 10 s left",
        "loading",
        "comparing  0/100",
        "comparing  50/100, 5.0 s left",
        "packaging  0/100",
        "packaging  20/100, 4.0 s left",
    ]
