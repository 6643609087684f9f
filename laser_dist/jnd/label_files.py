"""Label files of any dataset and storage: their content, and errors and faults in it.

Parsers take `LabelFile`s, so the files may come from a folder, a bucket or an archive. There are
three outcomes. Known quirks are repaired, and each repair is listed in one readable line. Labels
that make one source unusable are a `LabelFault` of that source. A file or cell that cannot be read
is a `LabelFileError`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from laser_dist.errors import UserError
from laser_dist.storage import StoredFile, limit, list_files, read_listed, too_large

MAX_LABEL_BYTES = limit("MAX_LABEL_BYTES", 16_000_000)
"""Largest label file; those of VideoSet and MCL-JCI have some 100 kB."""

# Tables that went through a spreadsheet or pandas write integers as `33.0`.
_INTEGER = re.compile(r"([+-]?\d{1,9})(?:\.0*)?")


@dataclass(frozen=True)
class LabelFile:
    """A label file, already fetched.

    Attributes:
      name: file name without folders, such as `640x360_1st.csv`.
      location: full path or URL, for messages.
      content: all bytes of the file.
    """

    name: str
    location: str
    content: bytes


@dataclass(frozen=True)
class LabelFault:
    """The reason why the labels of one source cannot be used.

    Attributes:
      source_id: such as `videoSRC001`.
      location: file and line, in the same form as in repairs.
      reason: such as "JND2 24 below JND1 30".
    """

    source_id: str
    location: str
    reason: str


class LabelFileError(UserError):
    """A label file that cannot be read, with the position of the problem.

    Attributes:
      file: name of the file.
      line: line where the row starts, counted from 1; None for the complete file.
      column: name of the column; None for the complete row.
      problem: such as "'thirty' is not a decimal number".
    """

    def __init__(self, file: str, line: int | None, column: str | None, problem: str) -> None:
        parts = [file]
        parts += [] if line is None else [f"line {line}"]
        parts += [] if column is None else [f"column '{column}'"]
        super().__init__(
            f"{', '.join(parts)}: {problem}.", hint="Fix the file, or download it again."
        )
        # A pickled exception is rebuilt from `args`: they must be this constructor's.
        self.args = (file, line, column, problem)
        self.file = file
        self.line = line
        self.column = column
        self.problem = problem


def find_label_files(folder: Path, is_wanted: Callable[[str], bool]) -> tuple[LabelFile, ...]:
    """Read the label files below a local folder.

    Args:
      folder: searched recursively; hidden files and folders are skipped.
      is_wanted: whether a file of this name is a label file.

    Returns:
      The files, ordered by path.

    Raises:
      UserError: the folder does not exist or cannot be read, or a file is above the limit.
      LabelFileError: a file cannot be read.
    """
    found = [file for file in list_files(folder) if is_wanted(file.name)]
    return tuple(LabelFile(file.name, file.location, _content(file)) for file in found)


def check_label_size(name: str, size: int) -> None:
    """Raise `UserError` if a label file is above `MAX_LABEL_BYTES`; call it before reading."""
    if problem := too_large(f"Label file {name}", size, MAX_LABEL_BYTES):
        raise UserError(problem, hint="Replace it with the dataset's own file, or leave it out.")


def only_copy(copies: Sequence[LabelFile], repairs: list[str]) -> LabelFile:
    """Return the first, by location, of equal copies of a file.

    Args:
      copies: one or more.
      repairs: receives one line for each ignored copy.

    Raises:
      LabelFileError: two copies differ.
    """
    first, *others = sorted(copies, key=lambda file: file.location)
    for other in others:
        if other.content != first.content:
            problem = f"{first.location} and {other.location} differ"
            raise LabelFileError(first.name, None, None, problem)
        repairs.append(f"{first.name}: second copy {other.location}; ignored")
    return first


def decode_text(file: LabelFile) -> str:
    """Return the text of a file, without the byte order mark that spreadsheets write.

    Raises:
      LabelFileError: the file is not UTF-8.
    """
    try:
        return file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.content.count(b"\n", 0, error.start) + 1
        raise LabelFileError(file.name, line, None, f"not UTF-8 text ({error})") from error


def parse_integer(text: str) -> int | None:
    """Return the integer in a cell, written as `33` or `33.0`; None if it holds none."""
    match = _INTEGER.fullmatch(text)
    return int(match[1]) if match is not None else None


def quote(text: str, longest: int = 80) -> str:
    """Return a cell's text for a one-line message."""
    if not text:
        return "an empty cell"
    return repr(text if len(text) <= longest else f"{text[:longest]}...")


def _content(file: StoredFile) -> bytes:
    check_label_size(file.location, file.size)
    try:
        return read_listed(file)
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror or error})"
        raise LabelFileError(file.name, None, None, problem) from error
