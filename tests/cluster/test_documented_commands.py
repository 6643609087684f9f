"""Commands in the documentation, manifests and scripts: programs accept each of them."""

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.scripts.scripts import cli

from laser_dist.commands import train
from laser_dist.commands.main import COMMANDS, make_parser
from laser_dist.models.variants import VARIANTS
from laser_dist.training.config import PRESETS, describe_settings, override

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("tfds_builders/*/README.md")),
    ROOT / "benchmarks" / "README.md",
]
NOTEBOOK = ROOT / "docs" / "tutorials" / "demo.ipynb"
JOB = ROOT / "cluster" / "kuberay" / "rayjob.yaml"
SCRIPT = ROOT / "cluster" / "on_premises" / "start.sh"
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)``` *$", re.M | re.S
)
SHELLS = ("bash", "console", "sh")
LANGUAGES = {*SHELLS, "python", "text", "bibtex", "json", "yaml"}
# Words after which a command ends.
OPERATORS = {"|", "||", "&", "&&", ";", ">", "<", "do", "done"}


def code_of(path: Path) -> Iterator[str]:
    """Yield the shell code of a file."""
    text = path.read_text()
    if path == NOTEBOOK:
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
        yield from (cell for cell in cells if cell.startswith("%%bash"))
    elif path == JOB:
        yield yaml.safe_load(text)["spec"]["entrypoint"]
    elif path == SCRIPT:
        yield text
    else:
        for fence in FENCE.finditer(text):
            if fence["language"] in SHELLS:
                yield textwrap.dedent(fence["code"])
        prose = FENCE.sub("", text)
        yield from (" ".join(each.split()) for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose))


def commands_of(code: str, program: str) -> Iterator[tuple[str, ...]]:
    """Yield the words after a program's name, for each command that runs it."""
    for line in code.replace("\\\n", " ").splitlines():
        if not re.search(rf"(?:^|\s){program}\s", line):
            continue
        lexer = shlex.shlex(
            line.replace("'", "").replace('"', ""), posix=True, punctuation_chars="|&;<>"
        )
        lexer.whitespace_split = True
        words = list(lexer)
        # A name after another word is an argument, such as that of a Kubernetes object.
        starts = [
            index
            for index, word in enumerate(words)
            if word == program and (index == 0 or words[index - 1] in {*OPERATORS, "--"})
        ]
        for start in starts:
            rest = words[start + 1 :]
            end = next((i for i, word in enumerate(rest) if word in OPERATORS), len(rest))
            if rest[:end]:
                yield tuple(rest[:end])


def found(program: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the commands of all files, without templates such as `laser-jnd COMMAND --help`."""
    files = [*PAGES, NOTEBOOK, JOB, SCRIPT]
    return sorted(
        {
            (path.relative_to(ROOT).as_posix(), words)
            for path in files
            for code in code_of(path)
            for words in commands_of(code, program)
            if re.fullmatch(r"[a-z][a-z-]*|--[a-z-]+", words[0])
        }
    )


def is_complete(words: tuple[str, ...]) -> bool:
    """Return whether a command can run as written."""
    return not {"...", "…", "START_OPTION"} & set(words) and "[" not in "".join(words)


def cases(commands: list[tuple[str, tuple[str, ...]]]) -> list[Any]:
    return [pytest.param(words, id=f"{name}: {' '.join(words)}") for name, words in commands]


LASER_JND = [(name, words) for name, words in found("laser-jnd") if is_complete(words)]
EXAMPLES = [
    (f"{name} --help", words)
    for name, module in COMMANDS.items()
    for words in commands_of(module.EXAMPLE, "laser-jnd")
]
TRAININGS = ("train", "crossval", "reproduce")
RAY = [(name, words) for name, words in found("ray") if is_complete(words)]
MAKE = found("make")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_blocks_have_a_known_language(page):
    languages = [fence["language"] for fence in FENCE.finditer(page.read_text())]
    assert set(languages) <= LANGUAGES
    # Every fence is part of a pair, so no block was skipped.
    assert len(re.findall(r"^ *```", page.read_text(), re.M)) == 2 * len(languages)


def test_commands_are_found():
    names = {name for name, _ in LASER_JND}
    assert names >= {"README.md", "docs/how-to/train.md", "docs/tutorials/demo.ipynb"}
    assert "cluster/kuberay/rayjob.yaml" in names
    assert {words[0] for _, words in LASER_JND} >= {"build", "train", "evaluate", "predict"}
    assert {words[0] for _, words in RAY} >= {"up", "down", "job", "status"}
    assert ("README.md", ("demo",)) in MAKE


@pytest.mark.parametrize("words", cases(LASER_JND))
def test_laser_jnd_accepts(words):
    if len(words) == 1:  # only a name, or an option of the program itself
        assert words[0] in {*COMMANDS, "--version", "--help"}
        return
    parsed, unknown = make_parser().parse_known_args(words)
    assert parsed.command == words[0]
    # The rest is for Beam.
    assert unknown == [] or parsed.command == "build" or parsed.runner


@pytest.mark.parametrize(
    "words",
    cases([case for case in LASER_JND + EXAMPLES if case[1][0] in TRAININGS and len(case[1]) > 1]),
)
def test_the_settings_of_a_training_are_valid(words, tmp_path, monkeypatch):
    parsed = make_parser().parse_args(words)
    monkeypatch.chdir(tmp_path)
    if words[1:] == ("--config", "FILE"):  # the name of an option in prose
        return
    if parsed.command == "reproduce":
        for variant in VARIANTS:
            assert train.settings_of(parsed, variant)["variant"] == variant.name
        return
    if getattr(parsed, "resume", None):  # only these options can be given
        assert override(PRESETS["large"](VARIANTS[0]), train.work_settings(parsed))
        return
    if parsed.config:  # as the page before it prints, or with a few settings
        parsed.config.write_text('{"heads": {"epochs": 50}}')
    needs_dataset = not getattr(parsed, "print_config", False)
    settings = train.resolve(parsed, needs_dataset=needs_dataset)
    assert settings["variant"] == parsed.variant
    assert not parsed.config or settings["heads"]["epochs"] == 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_settings_named_in_prose_exist(page):
    prose = FENCE.sub("", page.read_text())
    sections = "image|jnd|heads|joint|head|backbone|cluster"
    named = re.findall(rf"(?<!`)`((?:{sections})\.(?!keras)[a-z_]+)(?:=[^`]*)?`", prose)
    assert set(named) <= {setting.path for setting in describe_settings()}


@pytest.mark.parametrize("words", cases(RAY))
def test_ray_has_each_command_and_option(words):
    command, rest = cli, list(words)
    while rest and (inner := getattr(command, "commands", {}).get(rest[0])):
        command = inner
        rest.pop(0)
    assert command is not cli, words
    assert not hasattr(command, "commands"), words
    options = {text for each in command.params for text in (*each.opts, *each.secondary_opts)}
    given = rest[: rest.index("--")] if "--" in rest else rest
    assert {word.partition("=")[0] for word in given if word.startswith("--")} <= options


def test_make_has_each_target():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {words[0] for _, words in MAKE} <= set(targets)
    automation = [*ROOT.glob(".github/workflows/*.yml"), ROOT / ".pre-commit-config.yaml"]
    called = {
        target
        for path in automation
        for target in re.findall(r"(?:run|entry): make ([a-z-]+)$", path.read_text(), re.M)
    }
    assert called == {"lint", "check", "test", "docs"}
    assert called <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_named_in_code_exist(page):
    text = " ".join(code for code in code_of(page))
    named = set(re.findall(r"(?<![\w/.-])(?:cluster|docs|tests|benchmarks)/[\w./]+\w", text))
    templates = {name for name in named if "NAME" in name}
    assert {name for name in named - templates if not (ROOT / name).exists()} == set()
