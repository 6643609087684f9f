"""Plain English: phrases that no text of the project holds, and the form of messages and help.

Texts are all of Markdown, templates, manifests and scripts; of Python the docstrings, comments,
names and strings; and the help of each command.
"""

import argparse
import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from laser_dist.commands.main import make_parser

ROOT = Path(__file__).parents[1]
THIS = Path(__file__).relative_to(ROOT).as_posix()
TEXT_FILES = (".md", ".j2", ".css", ".yaml", ".yml", ".sh", ".toml", ".cff", ".ipynb", ".svg")
TEXT_NAMES = ("Makefile", "Dockerfile", ".gitignore", ".dockerignore", "run")

# Pattern to what to write in its place. A space stands for any white space.
PHRASES = {
    r"anew": "again, from scratch, rebuild, recompute",
    r"mend(s|ed|ing)?": "fix, repair",
    r"tell(s|ing)? of|told of": "report, state",
    r"(go|goes|going|gone|went) on with": "resume, continue",
    r"(take|takes|taken|taking|took) over": "reuse",
    r"signs? of life": "heartbeat",
    r"of (ours|yours|theirs|mine|his|hers)": "our, your, their ... before the noun",
    r"of (its|their|our|your|my) own(?=[.,:;)]| (that|which|and|in|on|for|to|with|by)\b|$)": (
        "its own ..., a separate ..."
    ),
    r"of [A-Z]\w+'s(?=[.,;:)]| (that|which|is|are|and|or|in|on|to|with)\b|$)": "a noun stack",
    r"whoever": "users who",
    r"to be had": "available",
    r"beside": "next to, in addition to, with",
    r"alike": "also, the same for",
    r"(lie|lies|lay|lying) (in|below|beneath|under|there)": "is stored in, is in",
    r"what lies": "the files in",
    r"as (it|they) fell": "unchanged, unselected",
    r"in sight": "known, visible",
    r"for good": "permanently",
    r"killed off|dies": "fail, exit, is lost",
    r"miniatures?": "synthetic dataset",
    r"judged (sources?|datasets?|clips?)": "labeled source, labeled dataset",
    r"the house|of the house|rooms|floors": "package, layer, module",
    r"(?<!-)coded (clips?|images?|frames?|files?|at|by|with)": "encoded",
    r"stand-ins? of": "local substitute for, fake",
    r"long since|by turns|as a matter of course": "plain words",
    # British spelling.
    r"\w*(organ|recogn|initial|normal|quant|optim|synchron|serial|summar|minim|maxim|random|general"
    r"|regular|visual|util|parallel|token|character|standard|final|customi?|real|categor|local"
    r"|capital|stabil|priorit|author|penal)is(e|ed|es|er|ers|ing|ation|ations|able)": "-ize",
    r"\w*(colour|behaviour|neighbour|favour|honour|labour|flavour|harbour)\w*": "-or",
    r"(centre|metre|litre|fibre|calibre)[ds]?": "-er",
    r"(labell|modell|travell|signall|channell)(ed|ing)": "one l",
    r"(analys|catalys)(ed|es|ing)": "-yze",
    r"(?<!blue.)greys?|greyscale": "gray",
    r"licences?|artefacts?|whilst|amongst|learnt|programmes?|ageing": "US spelling",
}


def _spaced(pattern: str) -> str:
    return pattern.replace(" ", r"\s+")


BANNED = {
    re.compile(rf"(?<!\w)(?:{_spaced(pattern)})(?!\w)"): instead
    for pattern, instead in PHRASES.items()
}


@dataclass(frozen=True)
class Text:
    """A piece of text and where it is."""

    place: str
    text: str


def problems(text: Text) -> list[str]:
    """Each banned phrase of a text, with a replacement."""
    found = []
    for pattern, instead in BANNED.items():
        for match in pattern.finditer(text.text):
            phrase = " ".join(match[0].split())
            found.append(f'{text.place}: "{phrase}"; write: {instead}')
    return found


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Comments, those of successive lines as one, with the first line's number."""
    first, last, lines = 0, -1, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1:
            if lines:
                yield first, " ".join(lines)
            first, lines = token.start[0], []
        last = token.start[0]
        lines.append(token.string.lstrip("# "))
    if lines:
        yield first, " ".join(lines)


def python_texts(name: str, source: str) -> Iterator[Text]:
    """Comments, strings, and names that a file defines, these as words."""
    for line, comment in comments(source):
        yield Text(f"{name}:{line}", comment)
    for node in ast.walk(ast.parse(source)):
        words = None
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value if " " in node.value.strip() else None
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            words = " X ".join(map(str, parts))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            words = node.name.strip("_").replace("_", " ")
        elif isinstance(node, ast.arg):
            words = node.arg.replace("_", " ")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            words = node.id.replace("_", " ").lower()
        if words:
            yield Text(f"{name}:{getattr(node, 'lineno', 0)}", words)


def text_of_help(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The help of a command and of those below it."""
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from text_of_help(below)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """Text of each file that is checked, by path."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only Git knows which files belong to the project: {error}")
    names = [name for name in done.stdout.split("\0") if name and name != THIS]
    paths = [(name, ROOT / name) for name in sorted(set(names))]
    return {
        name: path.read_text(encoding="utf-8")
        for name, path in paths
        if path.is_file() and (path.suffix in (".py", *TEXT_FILES) or path.name in TEXT_NAMES)
    }


def test_no_text_has_a_banned_phrase(files):
    texts = []
    for name, content in files.items():
        if name.endswith(".py"):
            texts += python_texts(name, content)
        else:
            texts += [
                Text(f"{name}:{content.count(chr(10), 0, match.start()) + 1}", match[0])
                for match in re.finditer(r"(?:.+\n?)+", content)
            ]
    found = sorted({problem for text in texts for problem in problems(text)})
    assert not found, "\n".join(["", *found])


def test_no_help_has_a_banned_phrase_or_starts_with_of():
    wrong = []
    for name, parser in text_of_help(make_parser()):
        wrong += problems(Text(f"{name} --help", parser.format_help()))
        for action in parser._actions:
            if re.match(r"(?:of|whose|what) ", action.help or ""):
                wrong.append(f'{name} {action.dest}: "{action.help}"; start with a verb or noun')
    assert not wrong, "\n".join(["", *wrong])


def user_errors(source: str) -> Iterator[tuple[int, str]]:
    """What is wrong with calls of `UserError`, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).split(".")[-1] != "UserError":
            continue
        if len(node.args) != 1:
            yield node.lineno, "give one sentence, and a hint by its name"
            continue
        hints = [each.value for each in node.keywords if each.arg == "hint"]
        for sentence in (node.args[0], *hints):
            parts = [
                part.value
                for part in ast.walk(sentence)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if isinstance(sentence, ast.Constant | ast.JoinedStr):
                last = sentence.values[-1] if isinstance(sentence, ast.JoinedStr) else sentence
                is_open = isinstance(last, ast.Constant) and not str(last.value).endswith(
                    (".", "?")
                )
                if is_open and last.value:
                    yield node.lineno, f'end with a period: "{last.value}"'
            if re.search(r"expected .*\bgot\b", " ".join(map(str, parts)), re.DOTALL):
                yield node.lineno, 'write a sentence, not "expected ..., got ..."'


def test_user_errors_are_sentences(files):
    wrong = [
        f"{name}:{line}: {problem}"
        for name, source in files.items()
        if name.endswith(".py") and not name.startswith("tests/")
        for line, problem in user_errors(source)
    ]
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(
    "text",
    [
        "Both are coded anew.",
        "it goes on\n  with the next",
        "A machine of Google's.",
        "a fault of ours",
        "What lies below is taken over.",
        "a synchronised behaviour",
        "the colour of the centre",
        "They lie in a folder",
    ],
)
def test_banned_phrases_are_found(text):
    assert problems(Text("here", text))


@pytest.mark.parametrize(
    "text",
    [
        "Besides, the encoder is hard-coded.",
        "Renew the emended file and continue with Google's own image.",
        "The noise floor is otherwise unlikely to be precise.",
        "Resume the run with the color of the center, four times.",
    ],
)
def test_plain_text_passes(text):
    assert problems(Text("here", text)) == []


def test_comments_strings_and_names_of_python_are_texts():
    source = (
        'def mend_it(beside):\n    """Rooms."""\n    # go on\n    # with this\n'
        '    colour = f"whoever {1}"\n'
    )
    found = [problem for text in python_texts("a.py", source) for problem in problems(text)]
    assert sorted(found) == sorted(set(found))
    phrases = {re.search('"(.*)"', problem)[1] for problem in found}
    assert phrases == {"mend", "beside", "go on with", "colour", "whoever"}


@pytest.mark.parametrize(
    ("call", "is_right"),
    [
        ('UserError("`a.mp4` has no frames.", hint="Name another file.")', True),
        ('UserError(f"Cannot read {path}: {reason}")', True),
        ('UserError(f"{path} has no frames")', False),
        ('UserError("The file", "a clip", "none", "name another")', False),
        ('errors.UserError(f"{name}: expected a clip, got {given}.")', False),
    ],
)
def test_calls_of_user_error_are_checked(call, is_right):
    assert (not list(user_errors(call))) == is_right
