import os
import subprocess
import sys
from unittest.mock import patch

import pytest

from laser_dist.commands.quiet import prepare_environment, quiet

SHOUT = """
import os, subprocess, sys
from pathlib import Path
from laser_dist.commands.quiet import quiet
print("before")
try:
    with quiet(Path(sys.argv[1]), debug=sys.argv[3:] == ["--debug"]) as terminal:
        print("python", flush=True)
        print("buffered")
        os.write(2, b"descriptor\\n")
        subprocess.run(["echo", "child"], check=True)
        terminal.say("progress")
        if sys.argv[2] == "fail":
            raise KeyError("boom")
except KeyError:
    print("caught")
print("after")
print("after too", file=sys.stderr)
"""
MUTED = {"python", "buffered", "descriptor", "child"}


def shout(*arguments):
    command = [sys.executable, "-c", SHOUT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.parametrize("end", ["well", "fail"])
def test_all_that_is_printed_goes_to_the_log_but_what_the_terminal_says(tmp_path, end):
    log = tmp_path / "logs" / "command.log"
    done = shout(log, end)
    caught = ["caught"] if end == "fail" else []
    assert done.stdout.splitlines() == ["before", "progress", *caught, "after"]
    assert done.stderr.splitlines() == ["after too"]
    lines = log.read_text().splitlines()
    assert set(lines) >= MUTED
    assert ("KeyError: 'boom'" in lines) == (end == "fail")


def test_debugging_hides_nothing(tmp_path):
    done = shout(tmp_path / "log", "well", "--debug")
    assert set(f"{done.stdout}\n{done.stderr}".splitlines()) >= MUTED | {"progress"}
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left_open_and_an_empty_log_is_none(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    for log in (tmp_path / "log", None):
        with quiet(log, debug=False):
            pass
    assert set(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_stops_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="file"),
        quiet(tmp_path / "file" / "log", debug=False),
    ):
        pytest.fail("the block must not begin")


@pytest.mark.parametrize(("uses_cloud", "value"), [(False, "true"), (True, None)])
def test_the_machines_own_credentials_are_found_where_there_is_a_cloud(uses_cloud, value):
    with patch.dict(os.environ):
        os.environ.pop("NO_GCE_CHECK", None)
        prepare_environment(uses_cloud=uses_cloud)
        assert os.environ.get("NO_GCE_CHECK") == value
        os.environ["NO_GCE_CHECK"] = "said"
        prepare_environment(uses_cloud=uses_cloud)
        assert os.environ["NO_GCE_CHECK"] == "said"
