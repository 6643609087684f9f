"""All commands that the pages and manifests name are commands, with options that are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.scripts.scripts import cli

from laser_dist.commands.main import make_parser

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/cluster.md", "docs/at_scale.md", "docs/training.md")
FILES = (*PAGES, "cluster/kuberay/rayjob.yaml", "cluster/on_premises/start.sh")


def lines_of_code(name: str) -> Iterator[str]:
    """Lines of a page's blocks of code, long ones made whole, and what stands in backticks."""
    text = (ROOT / name).read_text()
    if name.endswith(".yaml"):
        yield yaml.safe_load(text)["spec"]["entrypoint"]
        return
    text = text.replace("\\\n", " ")
    if name.endswith(".md"):
        fenced = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
        yield from (line for block in fenced for line in block.splitlines())
        yield from re.findall(r"^ {4,}(.+)$", text, re.M)
        yield from (" ".join(each.split()) for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))
    else:
        yield from text.splitlines()


def commands(program: str) -> list[tuple[str, tuple[str, ...]]]:
    """Files that name a program, with the words after it, up to a comment or another command."""
    found = set()
    for name in FILES:
        for line in lines_of_code(name):
            for match in re.finditer(rf"(?:^|[\s|&;(]){program} ([^#|&;()]*)", line):
                words = shlex.split(match[1].replace("'", "").replace('"', ""))
                if words and re.fullmatch(r"[a-z][a-z-]*|--[a-z-]+", words[0]):
                    found.add((name, tuple(words)))
    return sorted(found)


def is_whole(words: tuple[str, ...]) -> bool:
    """Whether it can be run as it stands, not only the name of a command or a part of it."""
    return len(words) > 1 and not {"...", "…"} & set(words) and "[" not in "".join(words)


def cases(found: list[tuple[str, tuple[str, ...]]]) -> list[Any]:
    return [pytest.param(words, id=f"{name}: {' '.join(words)}") for name, words in found]


LASER_JND = [(name, words) for name, words in commands("laser-jnd") if is_whole(words)]
RAY = commands("ray")
MAKE = commands("make")


def test_commands_are_found_in_every_page():
    assert {name for name, _ in LASER_JND} >= {*PAGES, "cluster/kuberay/rayjob.yaml"}
    assert {words[0] for name, words in RAY if name == "docs/cluster.md"} >= {"up", "down", "job"}
    assert ("README.md", ("demo",)) in MAKE


@pytest.mark.parametrize("words", cases(LASER_JND))
def test_our_parser_takes_each_command_of_ours(words):
    parsed, unknown = make_parser().parse_known_args(words)
    assert parsed.command == words[0]
    assert unknown == [] or parsed.command == "build"  # the rest is Beam's


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


def test_each_file_that_the_page_names_is_there():
    text = (ROOT / "docs/cluster.md").read_text()
    named = set(re.findall(r"\b(?:cluster|docs|tests)/[\w./]+\b", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
