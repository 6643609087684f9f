import os
import subprocess
import sys
import time

import pytest
from command_line import BUFFERED, LASER_JND, laser_jnd

from laser_dist.commands.main import COMMANDS, make_parser, parse


def test_help_comes_within_a_second():
    times = []
    for _ in range(3):  # other tests run beside this one
        started = time.monotonic()
        result = laser_jnd("--help")
        times.append(time.monotonic() - started)
    assert min(times) < 1.0
    assert result.returncode == 0
    for name in COMMANDS:
        assert f"\n    {name}" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_an_example_that_parses(name, capsys):
    parser = make_parser()
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out.replace("\\\n", "")
    examples = [line.split("laser-jnd ")[1] for line in text.splitlines() if "  laser-jnd" in line]
    assert examples
    for example in examples:
        assert parse(example.split(" > ")[0].split()).command == name


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("build", "videoset_jnd"), "the following arguments are required: --manual-dir"),
        (
            ("synthesize", "--output", "x", "--qps", "0,9"),
            "neither 'all' nor a list of QPs from 1 to 51",
        ),
        (("synthesize", "--output", "x", "--num-sources", "1000"), "whole number, 1 to 999"),
        (("demo", "--seed", "-1"), "whole number, 0 to"),
        (("predict", "x", "--model", "r", "--satisfied", "1"), "a share between 0 and 1"),
        (("predict", "x", "--model", "r", "--satisfied", "90"), "a share from 0 to 1"),
        (("build", "nothing"), "invalid choice: 'nothing'"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments, text, capsys):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


# `laser-jnd predict` with a mistake in it.
MISTAKEN = """
import sys
from laser_dist.commands import main, predict

predict.run = lambda arguments: arguments.no_such_option
sys.exit(main.run(["predict", "x.mp4", "--model", "run", *sys.argv[1:]]))
"""


def test_a_fault_of_ours_ends_with_1_and_says_how_to_see_more():
    result, debugged = (
        subprocess.run(
            [sys.executable, "-c", MISTAKEN, *options], capture_output=True, text=True, timeout=120
        )
        for options in ((), ("--debug",))
    )
    assert result.returncode == debugged.returncode == 1
    assert result.stderr.startswith("internal error: AttributeError: ")
    assert "--debug" in result.stderr
    assert result.stderr.count("\n") == 2
    assert "Traceback" in debugged.stderr


def test_a_closed_pipe_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [*LASER_JND, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, env=BUFFERED
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")
