"""One label file's rows: found in its CSV, repaired where a quirk is known, each value checked.

Copies of VideoSet's files that circulate have been through spreadsheets and scripts. What can be
mended is, and is listed, one readable line each; what cannot is a `LabelFileError` that names file,
line and column.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from laser_dist.jnd.label_files import LabelFile, LabelFileError, decoded, shown, whole_number
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
    """One row of a file. Its values are read by column; what is none is an error.

    Attributes:
      file: name of the file.
      line: where the row begins, the header being 1.
      cells: text by name of column, for all of `COLUMNS`.
    """

    file: str
    line: int
    cells: Mapping[str, str]

    @property
    def place(self) -> str:
        """Where the row stands, as the lines on repairs say it."""
        return f"{self.file}, line {self.line}"

    def error(self, column: str, expected: str) -> LabelFileError:
        """What to raise where a column holds something else than `expected`."""
        return LabelFileError(self.file, self.line, column, expected, shown(self.cells[column]))

    def decimal(self, column: str) -> float:
        """A column's decimal number, of any size."""
        text = self.cells[column]
        if not _DECIMAL.fullmatch(text):
            raise self.error(column, "a decimal number")
        return float(text)

    def whole(self, column: str, *, lowest: int, highest: int) -> int:
        """A column's whole number, from `lowest` to `highest`."""
        value = whole_number(self.cells[column])
        if value is None or not lowest <= value <= highest:
            raise self.error(column, f"a whole number from {lowest} to {highest}")
        return value

    def samples(self) -> tuple[int, ...]:
        """The column `samples`: [S] QPs, two or more, in the file's order."""
        text = self.cells["samples"]
        balanced = text.startswith("[") == text.endswith("]")
        text = text.removeprefix("[").removesuffix("]")
        parts = re.split("[,;]", text) if re.search("[,;]", text) else text.split()
        found = [whole_number(part.strip()) for part in parts]
        values = tuple(value for value in found if value is not None)
        readable = balanced and len(values) == len(found) >= 2
        if not readable or not all(0 <= value <= MAX_QP for value in values):
            raise self.error("samples", f"a list of two or more QPs from 0 to {MAX_QP}")
        return values


def read_rows(file: LabelFile, repairs: list[str]) -> Iterator[LabelRow]:
    """The rows of a file that hold values, in its order, each with the known columns only.

    Args:
      file: to read.
      repairs: added to: what was mended or left out, one line each.

    Raises:
      LabelFileError: the file is no CSV in UTF-8, or lacks a column or a cell.
    """
    (header_line, header), *records = _records(file)
    names = [name.strip() for name in header]
    if names.count("anchor") == 2 and "jnd" not in names:
        names = _name_the_level(file.name, names, [cells for _, cells in records])
        repairs.append(
            f"{file.name}, line {header_line}: two columns 'anchor'; the higher is 'jnd'"
        )
    wrong = [name for name in COLUMNS if names.count(name) != 1]
    if wrong:
        expected = f"the columns {','.join(COLUMNS)}, each once"
        got = shown(",".join(names), longest=200)
        raise LabelFileError(file.name, header_line, wrong[0], expected, got)
    if len(names) > len(COLUMNS):
        others = [name or "without a name" for name in names if name not in COLUMNS]
        repairs.append(f"{file.name}, line {header_line}: columns {others}; ignored")
    for line, cells in records:
        where = f"{file.name}, line {line}"
        if not any(cell.strip(" =") for cell in cells):
            repairs.append(f"{where}: no values in the row; ignored")
            continue
        # Empty columns at the end are there in some rows only, so cells are asked for by name.
        known = {n: c.strip(" =") for n, c in zip(names, cells, strict=False) if n in COLUMNS}
        surplus = any(cell.strip(" =") for cell in cells[len(names) :])
        if surplus or len(known) < len(COLUMNS):
            raise LabelFileError(file.name, line, None, f"{len(names)} cells", str(len(cells)))
        if any("=" in cell for cell in cells):
            repairs.append(f"{where}: a stray '='; dropped")
        yield LabelRow(file.name, line, known)


def _records(file: LabelFile) -> list[tuple[int, list[str]]]:
    """The file's records and the lines where they begin; blank lines are left out."""
    records: list[tuple[int, list[str]]] = []
    text = decoded(file, "CSV in UTF-8")
    line = 1
    try:
        # An empty `newline` keeps CR and LF as they are, which `csv` wants.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for cells in reader:
            if cells:
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelFileError(file.name, line, None, "CSV in UTF-8", str(error)) from error
    if not records:
        raise LabelFileError(file.name, 1, None, f"a header {','.join(COLUMNS)}", "an empty file")
    return records


def _name_the_level(file: str, names: list[str], rows: list[list[str]]) -> list[str]:
    """Rename the higher of two columns `anchor` to `jnd`: a level lies above its anchor."""
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
        expected = "one of two columns 'anchor' to be the higher in every row, the level 'jnd'"
        raise LabelFileError(file, 1, "anchor", expected, "neither")
    return [*names[:level], "jnd", *names[level + 1 :]]
