"""Rows of one VideoSet label file: parsed from CSV, known quirks repaired, each value checked.

Copies of VideoSet's files in circulation have been through spreadsheets and scripts. Repairs are
listed, one readable line each; a cell that cannot be read raises `LabelFileError`.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from laser_dist.jnd.label_files import LabelFile, LabelFileError, decode_text, parse_integer, quote
from laser_dist.jnd.scale import MAX_QP

COLUMNS = (
    "anchor",
    "jnd",
    "mean",
    "normality",
    "samples",
    "samples_no",
    "sequence_index",
    "standard_deviation",
)

_DECIMAL = re.compile(r"[+-]?\d+(?:\.\d*)?|[+-]?\.\d+")


@dataclass(frozen=True)
class LabelRow:
    """One row of a file; its values are parsed by column.

    Attributes:
      file: name of the file.
      line: line where the row starts, the header being 1.
      cells: text by column name, for all of `COLUMNS`.
    """

    file: str
    line: int
    cells: Mapping[str, str]

    @property
    def location(self) -> str:
        """File and line, as repairs name them."""
        return f"{self.file}, line {self.line}"

    def decimal(self, column: str) -> float:
        """Return the decimal number in a column, of any size."""
        text = self.cells[column]
        if not _DECIMAL.fullmatch(text):
            raise self._error(column, "a decimal number")
        return float(text)

    def integer(self, column: str, *, lowest: int, highest: int) -> int:
        """Return the integer in a column, from `lowest` to `highest`."""
        value = parse_integer(self.cells[column])
        if value is None or not lowest <= value <= highest:
            raise self._error(column, f"an integer from {lowest} to {highest}")
        return value

    def samples(self) -> tuple[int, ...]:
        """Return the column `samples`: [S] QPs, two or more, in file order."""
        text = self.cells["samples"]
        balanced = text.startswith("[") == text.endswith("]")
        text = text.removeprefix("[").removesuffix("]")
        parts = re.split("[,;]", text) if re.search("[,;]", text) else text.split()
        found = [parse_integer(part.strip()) for part in parts]
        values = tuple(value for value in found if value is not None)
        readable = balanced and len(values) == len(found) >= 2
        if not readable or not all(0 <= value <= MAX_QP for value in values):
            raise self._error("samples", f"a list of two or more QPs from 0 to {MAX_QP}")
        return values

    def _error(self, column: str, wanted: str) -> LabelFileError:
        problem = f"{quote(self.cells[column])} is not {wanted}"
        return LabelFileError(self.file, self.line, column, problem)


def read_rows(file: LabelFile, repairs: list[str]) -> Iterator[LabelRow]:
    """Yield the non-empty rows of a file in order, each with the known columns only.

    Args:
      file: the file to read.
      repairs: receives one line for each repair or omission.

    Raises:
      LabelFileError: the file is not CSV in UTF-8, or lacks a column or a cell.
    """
    (header_line, header), *records = _records(file)
    header_location = f"{file.name}, line {header_line}"
    names = [name.strip() for name in header]
    if names.count("anchor") == 2 and "jnd" not in names:
        names = _rename_higher_anchor(file.name, names, [cells for _, cells in records])
        repairs.append(f"{header_location}: two columns 'anchor'; the higher is 'jnd'")
    wrong = [name for name in COLUMNS if names.count(name) != 1]
    if wrong:
        found = quote(",".join(names), longest=200)
        problem = f"the columns are {found}; they must contain {','.join(COLUMNS)}, each once"
        raise LabelFileError(file.name, header_line, wrong[0], problem)
    if len(names) > len(COLUMNS):
        others = [name or "unnamed" for name in names if name not in COLUMNS]
        repairs.append(f"{header_location}: other columns {others}; ignored")
    for line, cells in records:
        location = f"{file.name}, line {line}"
        if not any(cell.strip(" =") for cell in cells):
            repairs.append(f"{location}: an empty row; ignored")
            continue
        # Only some rows have the empty columns at the end, so cells are matched by name.
        known = {n: c.strip(" =") for n, c in zip(names, cells, strict=False) if n in COLUMNS}
        surplus = any(cell.strip(" =") for cell in cells[len(names) :])
        if surplus or len(known) < len(COLUMNS):
            problem = f"the row has {len(cells)} cells instead of {len(names)}"
            raise LabelFileError(file.name, line, None, problem)
        if any("=" in cell for cell in cells):
            repairs.append(f"{location}: a stray '='; dropped")
        yield LabelRow(file.name, line, known)


def _records(file: LabelFile) -> list[tuple[int, list[str]]]:
    """Return the records of a file with the lines where they start, without blank lines."""
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        # An empty `newline` leaves CR and LF unchanged, as `csv` requires.
        reader = csv.reader(io.StringIO(decode_text(file), newline=""), strict=True)
        for cells in reader:
            if cells:
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelFileError(file.name, line, None, f"not valid CSV ({error})") from error
    if not records:
        raise LabelFileError(file.name, None, None, "the file is empty")
    return records


def _rename_higher_anchor(file: str, names: list[str], rows: list[list[str]]) -> list[str]:
    """Rename the higher of two columns `anchor` to `jnd`: a level is above its anchor."""
    left, right = (index for index, name in enumerate(names) if name == "anchor")
    texts = [
        [cells[index].strip(" =") for index in (left, right)]
        for cells in rows
        if len(cells) > right
    ]
    pairs = [
        (float(low), float(high))
        for low, high in texts
        if _DECIMAL.fullmatch(low) and _DECIMAL.fullmatch(high)
    ]
    if pairs and all(low <= high for low, high in pairs):
        level = right
    elif pairs and all(high <= low for low, high in pairs):
        level = left
    else:
        problem = "neither of the two columns 'anchor' is higher in every row, as 'jnd' must be"
        raise LabelFileError(file, 1, "anchor", problem)
    return [*names[:level], "jnd", *names[level + 1 :]]
