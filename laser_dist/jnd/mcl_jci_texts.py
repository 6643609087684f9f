"""MCL-JCI's texts, one source each: what viewers said, and the stair-step model made of it.

A viewers' text has a line per viewer: a name, then the quality factors at which that viewer noticed
a difference, each against the one before, so in descending order; as many as the viewer had. A
stairs' text has the quality factors of the steps in its first line, their heights in the second.
Cells are parted by white space, a comma or a semicolon, as the files at hand do not agree on one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from laser_dist.jnd.label_files import (
    LabelFault,
    LabelFile,
    LabelFileError,
    decoded,
    shown,
    whole_number,
)
from laser_dist.jnd.scale import QF

_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class ViewerChain:
    """What one viewer said of one source.

    Attributes:
      subject: the viewer's name, printable, without white space, comma or semicolon.
      quality_factors: [K] JND1, JND2 and so on, within 1 to 99, strictly descending. The k-th is
        the highest that this viewer told apart from the one before; JND1 from quality factor 100.

    Raises:
      ValueError: a name or quality factors that are not so.
    """

    subject: str
    quality_factors: tuple[int, ...]

    def __post_init__(self) -> None:
        if not is_subject(self.subject):
            raise ValueError(f"subject: expected one printable word, got {self.subject!r}")
        if why := why_no_chain(self.quality_factors):
            raise ValueError(f"quality_factors: {why}, got {self.quality_factors}")


def is_subject(text: str) -> bool:
    """Whether a text can be a viewer's name."""
    return bool(text) and text.isprintable() and _SEPARATOR.search(text) is None


def why_no_chain(quality_factors: Sequence[int], *, highest: int = QF.reference - 1) -> str:
    """Why numbers are not quality factors from 1 to `highest`, strictly descending; empty if so."""
    for value in quality_factors:
        if not QF.lowest <= value <= highest:
            return f"quality factor {value} outside {QF.lowest} to {highest}"
    for before, value in pairwise(quality_factors):
        if value >= before:
            return f"quality factor {value} after {before}, not below it"
    return ""


def format_mcl_jci_viewers(chains: Sequence[ViewerChain]) -> str:
    r"""A viewers' text: a line per viewer, parted by spaces, ended by `\n`.

    Reads back as it was where names differ, and either all or none of them are numbers.
    """
    return "".join(
        " ".join([chain.subject, *map(str, chain.quality_factors)]) + "\n" for chain in chains
    )


def read_viewers(
    file: LabelFile, identifier: str, repairs: list[str]
) -> tuple[ViewerChain, ...] | LabelFault:
    """A viewers' text.

    Mended and listed: levels written as 0 or left empty at a line's end are missing; of equal
    neighbors one is dropped; a line that stands there twice counts once. A viewer who stands there
    twice with different answers is kept and listed.

    Args:
      file: to read.
      identifier: of its source.
      repairs: added to, one line each.

    Returns:
      The viewers, in the file's order; or that there is none, that one's answers are impossible, or
      that some have a number for a name and some do not, so that one has lost it.

    Raises:
      LabelFileError: the file is no text in UTF-8, or a cell is no whole number.
    """
    chains: list[ViewerChain] = []
    faults: list[LabelFault] = []
    for line, (subject, *cells) in _lines(file):
        place = f"{file.name}, line {line}"
        if not is_subject(subject):
            raise LabelFileError(file.name, line, None, "a viewer's name first", shown(subject))
        values = _without_doubles(_numbers(file, line, cells), place, repairs)
        if why := why_no_chain(values):
            faults.append(LabelFault(identifier, place, f"viewer {subject}: {why}"))
        elif chains and _is_number(subject) != _is_number(chains[0].subject):
            # A line that lost its name would give its first answer for one.
            why = f"viewers {chains[0].subject} and {subject}: one of them is no name"
            faults.append(LabelFault(identifier, place, why))
        else:
            _add_viewer(chains, ViewerChain(subject, values), place, repairs)
    if faults:
        more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
        return LabelFault(identifier, faults[0].place, faults[0].why + more)
    return tuple(chains) or LabelFault(identifier, file.name, f"no viewer in {file.name}")


def read_stairs(file: LabelFile, repairs: list[str]) -> tuple[int, ...] | None:
    """A stairs' text.

    Listed: zeros at the ends and equal neighbors, which are dropped; a number of heights that is
    not the number of quality factors. Heights are not read.

    Args:
      file: to read.
      repairs: added to, one line each.

    Returns:
      [K] the quality factors below 100, strictly descending (the text may ascend); None, which is
      listed too, where they are none from 1 to 100 or go up and down.

    Raises:
      LabelFileError: the file is no text in UTF-8, or a cell is no whole number.
    """
    rows = list(_lines(file))
    line, cells = rows[0] if rows else (1, [])
    num_heights = len(rows[1][1]) if len(rows) > 1 else 0
    place = f"{file.name}, line {line}"
    if num_heights != len(cells):
        repairs.append(f"{place}: {len(cells)} quality factors, {num_heights} heights; kept")
    values = _numbers(file, line, cells)
    if values[:1] == (0,):
        values = values[::-1]
    values = _without_doubles(values, place, repairs)
    if len(values) > 1 and values[0] < values[-1]:
        values = values[::-1]
    why = why_no_chain(values, highest=QF.highest) if values else "no quality factors"
    if why:
        repairs.append(f"{place}: {why}; these stairs are left out")
        return None
    return tuple(value for value in values if value < QF.reference)


def _add_viewer(
    chains: list[ViewerChain], chain: ViewerChain, place: str, repairs: list[str]
) -> None:
    if chain in chains:
        repairs.append(f"{place}: viewer {chain.subject} a second time, the same; ignored")
        return
    if any(chain.subject == other.subject for other in chains):
        repairs.append(f"{place}: viewer {chain.subject} a second time, with other answers; kept")
    chains.append(chain)


def _is_number(text: str) -> bool:
    return whole_number(text) is not None


def _lines(file: LabelFile) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that holds any; a cell between two commas may be empty."""
    for line, text in enumerate(_LINE_END.split(decoded(file, "text in UTF-8")), start=1):
        stripped = text.rstrip(" \t,;").strip()
        if stripped:
            yield line, _SEPARATOR.split(stripped)


def _numbers(file: LabelFile, line: int, cells: Sequence[str]) -> tuple[int, ...]:
    """The whole numbers of a line; an empty cell is a 0."""
    found = [whole_number(cell or "0") for cell in cells]
    values = tuple(value for value in found if value is not None)
    if len(values) < len(found):
        got = shown(cells[found.index(None)])
        raise LabelFileError(file.name, line, None, "whole numbers", got)
    return values


def _without_doubles(values: tuple[int, ...], place: str, repairs: list[str]) -> tuple[int, ...]:
    """The values without zeros at the end and without repetition of the one before."""
    num_present = max((index + 1 for index, value in enumerate(values) if value != 0), default=0)
    if num_present < len(values):
        repairs.append(f"{place}: 0 for a missing quality factor; dropped")
    present = values[:num_present]
    distinct = present[:1] + tuple(value for before, value in pairwise(present) if value != before)
    if len(distinct) < len(present):
        repairs.append(f"{place}: a quality factor twice in succession; counted once")
    return distinct
