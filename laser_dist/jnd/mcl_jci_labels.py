"""MCL-JCI's labels: the viewers' answers for each image, and its three levels by two conventions.

Levels are JPEG quality factors (QF, 1..100, higher = better). Unlike VideoSet's, levels are chained
per viewer: a viewer's next level is found against that viewer's previous one. Viewers without a
second or third level are missing there. There are two conventions for JND1 to JND3, and they do
not agree:

- "viewers": of the samples of each level, the quality factor at which 75% are satisfied;
- "stairs": the first three quality factors below 100 of the stair-step model.

A viewers' text (`JND_image_01.txt`) has a line per viewer: a name, then the viewer's levels,
descending. A stairs' text (`Image_1_l_h.txt`) has the quality factors of the steps in its first
line and their heights in the second. Cells are separated by white space, a comma or a semicolon,
because the files in circulation differ.

Source: Jin et al. 2016 (MCL-JCI) and the files published with it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from laser_dist.errors import UserError
from laser_dist.jnd.label_files import (
    LabelFault,
    LabelFile,
    LabelFileError,
    decode_text,
    find_label_files,
    only_copy,
    parse_integer,
    quote,
)
from laser_dist.jnd.mcl_jci_layout import (
    TextName,
    mcl_jci_source_id,
    parse_text_name,
)
from laser_dist.jnd.scale import NUM_LEVELS, QF
from laser_dist.jnd.sur import level_at_sur

MIN_VIEWERS = 2
"""Fewest viewers that define a level of a group."""

Convention = Literal["viewers", "stairs"]
CONVENTIONS: tuple[Convention, Convention] = ("viewers", "stairs")

_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class ViewerChain:
    """The levels of one viewer for one source.

    Attributes:
      subject: the viewer's name, printable, without white space, comma or semicolon.
      quality_factors: [K] JND1, JND2 and so on, within 1..99, strictly descending. Each is the
        highest that this viewer distinguished from the previous one; JND1 from quality factor 100.
    """

    subject: str
    quality_factors: tuple[int, ...]


@dataclass(frozen=True)
class MclJciSource:
    """All labels of one source.

    Attributes:
      source_id: such as `ImageJND_SRC01`.
      chains: one per viewer.
      stairs: quality factors of the stair-step model below 100, strictly descending; None without
        such a model.
    """

    source_id: str
    chains: tuple[ViewerChain, ...]
    stairs: tuple[int, ...] | None

    @property
    def samples(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Samples of JND1 to JND3: [S] quality factors of the viewers who have that level.

        S differs between levels, so positions do not identify viewers; `viewers` does.
        """
        first, second, third = (
            tuple(chain.quality_factors[level] for chain in self._chains_with(level))
            for level in range(NUM_LEVELS)
        )
        return (first, second, third)

    @property
    def viewers(self) -> tuple[tuple[str, ...], ...]:
        """Name of the viewer of each of the `samples`, for JND1 to JND3."""
        return tuple(
            tuple(chain.subject for chain in self._chains_with(level))
            for level in range(NUM_LEVELS)
        )

    def _chains_with(self, level: int) -> list[ViewerChain]:
        return [chain for chain in self.chains if len(chain.quality_factors) > level]

    def levels(self, convention: Convention) -> tuple[float, float, float]:
        """Return JND1 to JND3 as quality factors.

        Args:
          convention: "viewers", the largest quality factor at which at least 25% of the viewers
            who have that level have noticed; or "stairs".

        Returns:
          The levels; NaN for one that fewer than two viewers have, or that the stairs lack.
        """
        if convention == "stairs":
            stairs = self.stairs or ()
            found = [float(stairs[k]) if k < len(stairs) else math.nan for k in range(NUM_LEVELS)]
        else:
            found = [
                float(level_at_sur(samples, scale=QF)) if len(samples) >= MIN_VIEWERS else math.nan
                for samples in self.samples
            ]
        first, second, third = found
        return (first, second, third)


@dataclass(frozen=True)
class MclJciLabels:
    """All labels of the dataset.

    Attributes:
      sources: usable sources, by ascending number. If viewers lack a level, levels by "viewers"
        may rise from one to the next: of the few with JND2, a quarter may have noticed before a
        quarter of all had JND1.
      repairs: repairs and oddities, one readable line each, with file and line.
      faults: unusable sources, each once, by ascending number.
    """

    sources: tuple[MclJciSource, ...]
    repairs: tuple[str, ...]
    faults: tuple[LabelFault, ...]


def format_mcl_jci_viewers(chains: Sequence[ViewerChain]) -> str:
    r"""Return a viewers' text: a line per viewer, separated by spaces, ending in `\n`.

    It reads back unchanged if names differ, and either all or none of them are numbers.
    """
    return "".join(
        " ".join([chain.subject, *map(str, chain.quality_factors)]) + "\n" for chain in chains
    )


def read_mcl_jci_labels(folder: Path) -> MclJciLabels:
    """Read the labels of all sources from a local folder.

    Args:
      folder: searched recursively for the texts.

    Returns:
      As `parse_mcl_jci_labels`.

    Raises:
      UserError: the folder does not exist or has no viewers' text.
      LabelFileError: as `parse_mcl_jci_labels`.
    """
    files = find_label_files(folder, lambda name: parse_text_name(name) is not None)
    return parse_mcl_jci_labels(files, location=str(folder))


def parse_mcl_jci_labels(files: Sequence[LabelFile], *, location: str) -> MclJciLabels:
    """Parse the labels of all sources from their viewers' and, if given, stairs' texts.

    Accepted: white space, commas or semicolons between cells, CRLF or LF, a byte order mark, blank
    lines, any number of viewers and levels. Repairs of `_parse_viewers` and `_parse_stairs` are
    listed in `repairs`. A source is left out and listed in `faults` if it has stairs but no
    viewers, or a viewer's quality factors are outside 1..99 or do not descend.

    Args:
      files: in any order; files of other names are ignored.
      location: the folder or bucket that was searched, for messages.

    Raises:
      UserError: there is no viewers' text.
      LabelFileError: a file or cell cannot be read, or two copies of a file differ.
    """
    copies: dict[TextName, list[LabelFile]] = defaultdict(list)
    for file in files:
        name = parse_text_name(file.name)
        if name is not None:
            copies[name].append(file)
    if not any(name.kind == "viewers" for name in copies):
        raise UserError(
            f"{location} has no label file of MCL-JCI (JND_image_01.txt and so on).",
            hint="Put MCL-JCI's JND_samples there, or name the folder that contains them.",
        )
    repairs: list[str] = []
    chosen = {name: only_copy(copies[name], repairs) for name in sorted(copies)}
    found = [
        _parse_source(
            source_index,
            chosen.get(TextName(source_index=source_index, kind="viewers")),
            chosen.get(TextName(source_index=source_index, kind="stairs")),
            repairs,
        )
        for source_index in sorted({name.source_index for name in chosen})
    ]
    return MclJciLabels(
        sources=tuple(source for source in found if isinstance(source, MclJciSource)),
        repairs=tuple(repairs),
        faults=tuple(fault for fault in found if isinstance(fault, LabelFault)),
    )


def _parse_source(
    source_index: int, viewers: LabelFile | None, stairs: LabelFile | None, repairs: list[str]
) -> MclJciSource | LabelFault:
    source_id = mcl_jci_source_id(source_index)
    steps = _parse_stairs(stairs, repairs) if stairs is not None else None
    if viewers is None:
        missing = TextName(source_index=source_index, kind="viewers").path.name
        return LabelFault(source_id, missing, f"no {missing}")
    chains = _parse_viewers(viewers, source_id, repairs)
    if isinstance(chains, LabelFault):
        return chains
    return MclJciSource(source_id, chains, steps)


def _parse_viewers(
    file: LabelFile, source_id: str, repairs: list[str]
) -> tuple[ViewerChain, ...] | LabelFault:
    """Parse a viewers' text.

    Repaired and listed: levels written as 0 or left empty at the end of a line count as missing;
    one of two equal neighbors is dropped; a repeated line counts once. A viewer who occurs twice
    with different levels is kept and listed.

    Returns:
      The viewers in file order; or the fault if there is none, a viewer's levels are impossible,
      or only some viewers have a number as a name (then one line has lost its name).

    Raises:
      LabelFileError: the file is not UTF-8 text, or a cell is not an integer.
    """
    chains: list[ViewerChain] = []
    faults: list[LabelFault] = []
    for line, (subject, *cells) in _lines(file):
        location = f"{file.name}, line {line}"
        if not _is_subject(subject):
            problem = f"{quote(subject)} is not a viewer's name"
            raise LabelFileError(file.name, line, None, problem)
        values = _drop_repeats(_integers(file, line, cells), location, repairs)
        if problem := _chain_problem(values):
            faults.append(LabelFault(source_id, location, f"viewer {subject}: {problem}"))
        elif chains and _is_number(subject) != _is_number(chains[0].subject):
            # In a line that lost its name, the first level would become the name.
            reason = f"viewers {chains[0].subject} and {subject}: one of them is not a name"
            faults.append(LabelFault(source_id, location, reason))
        else:
            _add_chain(chains, ViewerChain(subject, values), location, repairs)
    if faults:
        more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
        return LabelFault(source_id, faults[0].location, faults[0].reason + more)
    return tuple(chains) or LabelFault(source_id, file.name, f"no viewer in {file.name}")


def _parse_stairs(file: LabelFile, repairs: list[str]) -> tuple[int, ...] | None:
    """Parse the quality factors of a stairs' text; the heights are not parsed.

    Listed: zeros at the ends and equal neighbors, which are dropped, and a number of heights that
    differs from the number of quality factors.

    Returns:
      [K] the quality factors below 100, strictly descending (the text may ascend). None, which is
      listed too, if they are missing, outside 1..100, or not monotonic.

    Raises:
      LabelFileError: the file is not UTF-8 text, or a cell is not an integer.
    """
    rows = list(_lines(file))
    line, cells = rows[0] if rows else (1, [])
    num_heights = len(rows[1][1]) if len(rows) > 1 else 0
    location = f"{file.name}, line {line}"
    if num_heights != len(cells):
        repairs.append(f"{location}: {len(cells)} quality factors, {num_heights} heights; kept")
    values = _integers(file, line, cells)
    if values[:1] == (0,):
        values = values[::-1]
    values = _drop_repeats(values, location, repairs)
    if len(values) > 1 and values[0] < values[-1]:
        values = values[::-1]
    problem = _chain_problem(values, highest=QF.highest) if values else "no quality factors"
    if problem:
        repairs.append(f"{location}: {problem}; these stairs are ignored")
        return None
    return tuple(value for value in values if value < QF.reference)


def _add_chain(
    chains: list[ViewerChain], chain: ViewerChain, location: str, repairs: list[str]
) -> None:
    if chain in chains:
        repairs.append(f"{location}: viewer {chain.subject} again, with equal levels; ignored")
        return
    if any(chain.subject == other.subject for other in chains):
        repairs.append(f"{location}: viewer {chain.subject} again, with other levels; kept")
    chains.append(chain)


def _is_subject(text: str) -> bool:
    return bool(text) and text.isprintable() and _SEPARATOR.search(text) is None


def _is_number(text: str) -> bool:
    return parse_integer(text) is not None


def _chain_problem(quality_factors: Sequence[int], *, highest: int = QF.reference - 1) -> str:
    """Return why numbers are not strictly descending quality factors in 1..`highest`, or ""."""
    for value in quality_factors:
        if not QF.lowest <= value <= highest:
            return f"quality factor {value} outside {QF.lowest} to {highest}"
    for before, value in pairwise(quality_factors):
        if value >= before:
            return f"quality factor {value} after {before}, not below it"
    return ""


def _lines(file: LabelFile) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each non-empty line; a cell between two commas may be empty."""
    for line, text in enumerate(_LINE_END.split(decode_text(file)), start=1):
        stripped = text.rstrip(" \t,;").strip()
        if stripped:
            yield line, _SEPARATOR.split(stripped)


def _integers(file: LabelFile, line: int, cells: Sequence[str]) -> tuple[int, ...]:
    """Return the integers in a line; an empty cell counts as 0."""
    found = [parse_integer(cell or "0") for cell in cells]
    values = tuple(value for value in found if value is not None)
    if len(values) < len(found):
        problem = f"{quote(cells[found.index(None)])} is not an integer"
        raise LabelFileError(file.name, line, None, problem)
    return values


def _drop_repeats(values: tuple[int, ...], location: str, repairs: list[str]) -> tuple[int, ...]:
    """Return the values without zeros at the end and without equal neighbors."""
    num_present = max((index + 1 for index, value in enumerate(values) if value != 0), default=0)
    if num_present < len(values):
        repairs.append(f"{location}: 0 for a missing quality factor; dropped")
    present = values[:num_present]
    distinct = present[:1] + tuple(value for before, value in pairwise(present) if value != before)
    if len(distinct) < len(present):
        repairs.append(f"{location}: a quality factor twice in succession; counted once")
    return distinct
