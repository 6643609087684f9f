"""Label files of any dataset and from any store: their bytes, and how their faults are told.

Parsing takes `LabelFile`s, so it does not matter whether they lie in a folder, a bucket or an
archive. Three outcomes: what can be mended is, and is listed, one readable line each; what makes
one source impossible is a `LabelFault` of that source; what cannot be read at all is a
`LabelFileError`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from laser_dist.errors import UserError

# Tables that went through a spreadsheet or pandas write whole numbers as `33.0`.
_WHOLE = re.compile(r"([+-]?\d{1,9})(?:\.0*)?")


@dataclass(frozen=True)
class LabelFile:
    """A label file, already fetched.

    Attributes:
      name: without folders, such as `640x360_1st.csv`.
      place: full path or URL, for messages.
      content: all its bytes.
    """

    name: str
    place: str
    content: bytes

    @property
    def folder(self) -> str:
        """The place without the name."""
        return self.place.removesuffix(self.name).rstrip("/\\")


@dataclass(frozen=True)
class LabelFault:
    """Why the labels of one source cannot be used.

    Attributes:
      source_id: such as `videoSRC001`.
      place: file and line where it shows, as the lines on repairs say it.
      why: such as "JND2 24 below JND1 30".
    """

    source_id: str
    place: str
    why: str


class LabelFileError(UserError):
    """A label file that cannot be read, and where.

    Attributes:
      file: name of the file.
      line: number of the line where the row begins, the first being 1; None for the whole file.
      column: name of the column; None for the whole row.
    """

    def __init__(
        self, file: str, line: int | None, column: str | None, expected: str, got: str
    ) -> None:
        where = f"line {line}" if line is not None else ""
        where += f"{', ' if where else ''}column '{column}'" if column is not None else ""
        super().__init__(
            f"reading labels from {file}{', ' if where else ''}{where}",
            expected,
            got,
            "Mend that place, or copy the file anew from the dataset.",
        )
        # A pickled exception is rebuilt from `args`: they must be this constructor's, not the
        # base's.
        self.args = (file, line, column, expected, got)
        self.file = file
        self.line = line
        self.column = column


def find_label_files(folder: Path, is_wanted: Callable[[str], bool]) -> tuple[LabelFile, ...]:
    """Files on a local disk, read.

    Args:
      folder: searched with all folders below it; hidden places are passed over.
      is_wanted: whether a file of this name is one.

    Returns:
      The files, by path.

    Raises:
      UserError: no such folder.
      LabelFileError: a file that is there but cannot be read.
    """
    if not folder.is_dir():
        raise UserError(
            f"looking for labels in {folder}",
            "a folder that holds label files",
            "no such folder",
            "Name the folder that holds them.",
        )
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if is_wanted(path.name)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return tuple(LabelFile(path.name, str(path), _content(path)) for path in paths)


def only_copy(copies: Sequence[LabelFile], repairs: list[str]) -> LabelFile:
    """The file of which there may be copies: the first by place.

    Args:
      copies: one or more.
      repairs: added to: the copies that are ignored, one line each.

    Raises:
      LabelFileError: two copies differ.
    """
    first, *others = sorted(copies, key=lambda file: file.place)
    for other in others:
        if other.content != first.content:
            got = f"{first.place} and {other.place}, which differ"
            raise LabelFileError(first.name, None, None, "copies that agree", got)
        repairs.append(f"{first.name}: a second copy, the same, in {other.folder}; ignored")
    return first


def decoded(file: LabelFile, expected: str) -> str:
    """A file's text, without the byte order mark that spreadsheets put in front.

    Args:
      file: to decode.
      expected: what the file should be, for the error.

    Raises:
      LabelFileError: it is not in UTF-8.
    """
    try:
        return file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.content.count(b"\n", 0, error.start) + 1
        raise LabelFileError(file.name, line, None, expected, str(error)) from error


def whole_number(text: str) -> int | None:
    """The whole number that a cell holds, `33` or `33.0`; None where it holds none."""
    match = _WHOLE.fullmatch(text)
    return int(match[1]) if match is not None else None


def shown(text: str, longest: int = 80) -> str:
    """A cell's text for a message that stays one line."""
    return repr(text if len(text) <= longest else f"{text[:longest]}...") if text else "nothing"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        got = error.strerror or str(error)
        raise LabelFileError(path.name, None, None, "a file that can be read", got) from error
