import os
import subprocess
import sys

import pytest
from command_line import BUFFERED, LASER_JND, laser_jnd

from laser_dist.commands.main import COMMANDS, make_parser, parse


def test_help_lists_all_commands():
    result = laser_jnd("--help")
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
    ("arguments", "message"),
    [
        ((), "error: The following arguments are required: COMMAND."),
        (("build", "videoset_jnd"), "error: The following arguments are required: --manual-dir."),
        (("synthesize", "--qps", "0,9"), "QPs from 1 to 51"),
        (("synthesize", "--num-sources", "1000"), "whole number from 1 to 999"),
        (("demo", "--seed", "-1"), "whole number from 0 to 2147483647"),
        (("predict", "x", "--model", "r", "--sur", "1"), "must be between 0 and 1"),
        (("predict", "x", "--model", "r", "--sur", "90"), "must be from 0 to 1"),
        (
            ("build", "videoset"),
            'error: Unknown dataset "videoset"; choose from videoset_jnd, mcl_jci_jnd.\n'
            'hint: Did you mean "videoset_jnd"?',
        ),
        (("predcit", "x"), 'hint: Did you mean "predict"?'),
        (
            ("predict", "x", "--model", "r", "--fromat", "csv"),
            'error: Unknown arguments: --fromat csv.\nhint: Did you mean "--format"?',
        ),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_the_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as exited:
        parse(arguments)
    assert exited.value.code == 2
    text = capsys.readouterr().err
    command = f" {arguments[0]}" if arguments and arguments[0] in COMMANDS else ""
    assert text.startswith(f"usage: laser-jnd{command} [-h]")
    assert message in text


def test_common_options_may_precede_or_follow_the_command():
    for arguments in (["--debug", "models"], ["models", "--debug"]):
        parsed = parse(arguments)
        assert (parsed.debug, parsed.quiet, parsed.verbose) == (True, False, None)
    assert parse(["models", "-vv"]).verbose == 2


def test_help_of_a_command(capsys):
    parsed = parse(["help", "predict"])
    parsed.run(parsed)
    assert capsys.readouterr().out.startswith("usage: laser-jnd predict ")


# `laser-jnd predict` with a bug in it.
BUGGY = """
import sys
from laser_dist.commands import main, predict

predict.run = lambda arguments: arguments.no_such_option
sys.exit(main.run(["predict", "x.mp4", "--model", "run", *sys.argv[1:]]))
"""


def test_a_bug_exits_with_1_and_hints_at_the_traceback():
    result, debugged = (
        subprocess.run(
            [sys.executable, "-c", BUGGY, *options], capture_output=True, text=True, timeout=120
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
