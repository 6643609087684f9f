"""MkDocs hooks: generate reference pages from the code, and check links that leave `docs/`.

A page asks for generated content with a comment, `<!-- generate: NAME ARGUMENT -->`, which stays
invisible where the page is read as plain Markdown. What is between `<!-- plain -->` and
`<!-- /plain -->` is left out of the site.
"""

import argparse
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOK = "tutorials/demo.ipynb"
# Files outside docs/ that are pages of the site, by their page.
PAGES = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "tfds_builders/videoset_jnd/README.md": "reference/datasets/videoset_jnd.md",
    "tfds_builders/mcl_jci_jnd/README.md": "reference/datasets/mcl_jci_jnd.md",
}
# Files outside docs/ whose links are checked only.
CHECKED = ("README.md", "benchmarks/README.md", *PAGES)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.M | re.S)
# What only readers of the plain file see.
PLAIN = re.compile(r"<!-- plain -->\n.*?<!-- /plain -->\n", re.S)
MARKER = re.compile(r"^<!-- generate: (\S+) ?(.*?) -->$", re.M)


def on_pre_build(config: MkDocsConfig) -> None:
    """Fail if a relative link of a checked file outside `docs/` is broken."""
    broken = [error for name in CHECKED for error in broken_links(ROOT / name)]
    if broken:
        raise PluginError("Broken links:\n" + "\n".join(broken))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are stored elsewhere or in another format."""
    notebook = json.loads((DOCS / NOTEBOOK).read_text())
    page = NOTEBOOK.replace(".ipynb", ".md")
    files.append(File.generated(config, page, content=notebook_markdown(notebook)))
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=moved(ROOT / source, DOCS / page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert generated content, and point links to files outside `docs/` to their pages."""
    markdown = MARKER.sub(lambda match: GENERATORS[match[1]](match[2]), PLAIN.sub("", markdown))
    source = DOCS / page.file.src_uri
    return _replace_links(markdown, lambda text, target: _site_link(text, target, source))


def broken_links(path: Path) -> list[str]:
    """Return a line for each relative link of a Markdown file whose file or heading is missing."""
    found = []
    text = FENCE.sub("", path.read_text())
    targets = [match["target"] for match in LINK.finditer(text)]
    targets += re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text)
    for target in targets:
        if is_external(target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        if not linked.exists():
            found.append(f"{path.relative_to(ROOT)}: {target}: no such file")
        elif anchor and linked.suffix == ".md" and anchor not in headings(linked.read_text()):
            found.append(f"{path.relative_to(ROOT)}: {target}: no such heading")
    return found


def is_external(target: str) -> bool:
    """Return whether a link leaves the project."""
    return re.match(r"[a-z]+:", target) is not None


def headings(text: str) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and MkDocs form them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", title)) for title in titles]
    return {re.sub(r"\s+", "-", title.strip().lower()) for title in plain}


def moved(source: Path, page: Path) -> str:
    """Return a Markdown file with its relative links rewritten for another path."""

    def link(text: str, target: str) -> str:
        if is_external(target) or target.startswith("#"):
            return f"[{text}]({target})"
        return f"[{text}]({os.path.relpath((source.parent / target), page.parent)})"

    return _replace_links(source.read_text(), link)


def _replace_links(markdown: str, link: Any) -> str:
    """Apply `link(text, target)` to the links outside of code blocks."""
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [(markdown[end : fence.start()], True), (fence[0], False)]
        end = fence.end()
    parts.append((markdown[end:], True))
    return "".join(
        LINK.sub(lambda match: link(match["text"], match["target"]), part) if is_prose else part
        for part, is_prose in parts
    )


def _site_link(text: str, target: str, source: Path) -> str:
    name, mark, anchor = target.partition("#")
    if not name or is_external(target):
        return f"[{text}]({target})"
    linked = Path(os.path.normpath(source.parent / name))
    if linked == DOCS / NOTEBOOK:
        return f"[{text}]({name.replace('.ipynb', '.md')}{mark}{anchor})"
    if linked.is_relative_to(DOCS):
        return f"[{text}]({target})"
    outside = linked.relative_to(ROOT).as_posix()
    if outside in PAGES:
        return f"[{text}]({os.path.relpath(DOCS / PAGES[outside], source.parent)}{mark}{anchor})"
    if not linked.exists():
        raise PluginError(f"{source.relative_to(ROOT)}: {target}: no such file")
    return f"`{outside}`" if text.strip("`") == outside else f"{text} (`{outside}`)"


def notebook_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook's cells as Markdown, without outputs."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            language = "bash" if source.startswith("%%bash\n") else "python"
            source = f"```{language}\n{source.removeprefix('%%bash' + chr(10))}\n```"
        parts.append(source)
    return "\n\n".join(parts) + "\n"


def cli_reference(_: str) -> str:
    """Return a section for each command, from its argparse parser."""
    from laser_dist.commands.main import make_parser

    parser = make_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    sections = [
        f"[`laser-jnd {name}`](#laser-jnd-{name}): {action.help}  "
        for name, action in zip(commands.choices, commands._choices_actions, strict=True)
    ]
    sections.append("\n## Common options\n\n" + _options_table(parser))
    common = {name for action in parser._actions for name in action.option_strings}
    for name, command in commands.choices.items():
        sections += [f"\n## `laser-jnd {name}`\n", f"{command.description}\n"]
        sections += [f"```text\n{_usage(command)}\n```\n", _options_table(command, common)]
        sections.append(_epilog(command.epilog or ""))
    return "\n".join(sections)


def _usage(command: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(command.prog, width=76)
    formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, "")
    return formatter.format_help().strip()


def _options_table(command: argparse.ArgumentParser, without: Collection[str] = ()) -> str:
    lines = ["| Option | Value | Default | Description |", "|---|---|---|---|"]
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        if without and set(action.option_strings) & set(without):
            continue
        text = " ".join((action.help or "").split())
        default = _default(action)
        if found := re.search(r" ?\(default: (.+?)\)(?=$|[. ])", text):
            default = found[1] if "%(default)s" not in found[1] else default
            text = text.replace(found[0], "")
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{_value(action)}`"
        cells = [names, _value_cell(action), default, text.replace("%%", "%")]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return action.dest.upper() if action.option_strings else action.dest


def _value_cell(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "flag"
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    return f"`{_value(action)}`"


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.nargs == 0 or action.default in (None, argparse.SUPPRESS, []):
        return ""
    return f"`{action.default}`"


def _epilog(text: str) -> str:
    """Return the examples of a command as a code block and the rest as prose."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        title, newline, rest = paragraph.partition("\n")
        if title.rstrip(":").lower() in ("example", "examples"):
            commands = re.sub(r"^ {2}", "", rest, flags=re.M)
            parts.append(f"{title.rstrip(':').capitalize()}:\n\n```bash\n{commands}\n```\n")
        elif paragraph:
            parts.append(paragraph + "\n")
    return "\n".join(parts)


def settings_reference(_: str) -> str:
    """Return a table of the settings in each section of the configuration."""
    from laser_dist.training.config import PRESETS, describe_settings

    sections: dict[str, list[str]] = {}
    for setting in describe_settings():
        section, dot, _name = setting.path.rpartition(".")
        presets = [_code(setting.defaults[name]) for name in PRESETS]
        cells = [f"`{setting.path}`", setting.type, *presets, setting.meaning]
        sections.setdefault(section, []).append(_row(cells))
    titles = ["Path", "Type", *map(_code, PRESETS), "Meaning"]
    head = _row(titles) + "\n" + _row(["---"] * len(titles))
    return "\n".join(
        f"\n## {f'`{section}`' if section else 'Run'}\n\n{head}\n" + "\n".join(rows) + "\n"
        for section, rows in sorted(sections.items())
    )


def _code(value: Any) -> str:
    return f"`{value}`"


def api_reference(modules: str) -> str:
    """Return mkdocstrings directives for modules, separated by spaces."""
    return "\n\n".join(f"::: {name}" for name in modules.split()) + "\n"


def benchmark_reference(_: str) -> str:
    """Return a section for each result in `benchmarks/results/`."""
    order = [
        "accuracy", "build", "input", "training", "checkpoints", "scaling", "gpu", "chaos",
        "two_hosts", "signals", "attack", "prediction", "prediction_scale", "sampled_frames",
        "encoding", "margins", "codec_maps", "ladder",
    ]  # fmt: skip
    paths = {path.stem: path for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    names = sorted(paths, key=lambda name: (order.index(name) if name in order else 99, name))
    return "\n".join(benchmark_section(json.loads(paths[name].read_text())) for name in names)


def benchmark_section(result: dict[str, Any]) -> str:
    """Return one benchmark result as Markdown."""
    origin = f" {result['origin']}" if result.get("origin") else ""
    viewers = " The viewers are **simulated**." if result["simulated"] else ""
    parts = [f"## {result['title']}\n", f"```bash\n{result['command']}\n```\n"]
    parts.append(f"{result['summary']}{viewers}\n")
    for table in result["tables"]:
        rows = "\n".join(_row(row) for row in table["rows"])
        head = f"{_row(table['columns'])}\n{_row(['---'] * len(table['columns']))}\n"
        where = f" ({table['machine']}, {table['date']})" if "machine" in table else ""
        text = f"{table['caption']}{where}:\n\n{head}{rows}\n"
        if table.get("details"):
            text = f"<details markdown><summary>All runs</summary>\n\n{text}\n</details>\n"
        parts.append(text)
    parts += [f"- {note}" for note in result.get("notes", [])]
    parts.append(f"- Machine: {result['machine']}. Date: {result['date']}.{origin}\n")
    return "\n".join(parts)


def _row(cells: list[Any]) -> str:
    texts = ["" if cell is None else str(cell).strip().replace("|", "\\|") for cell in cells]
    return "| " + " | ".join(texts) + " |"


GENERATORS = {
    "cli": cli_reference,
    "settings": settings_reference,
    "api": api_reference,
    "benchmarks": benchmark_reference,
}
