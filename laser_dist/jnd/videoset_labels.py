"""VideoSet's label files: `{resolution}_{1st,2nd,3rd}.csv`, read with their quirks and written.

A file holds one JND level at one resolution, a row per source. All levels are quantizers (QP,
0..51, higher = worse). Copies of the files that circulate have quirks; what had to be repaired
is listed in `VideoSetLabels.repairs`, one line each. A source with impossible levels is left out
and listed in `VideoSetLabels.faults`. A cell that cannot be read raises `LabelFileError`.

Source: Wang et al. 2017 (VideoSet, arXiv 1701.01500) and the files published with it.
"""

import csv
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from laser_dist.errors import UserError
from laser_dist.jnd.label_files import LabelFault as LabelFault
from laser_dist.jnd.label_files import LabelFile as LabelFile
from laser_dist.jnd.label_files import LabelFileError as LabelFileError
from laser_dist.jnd.label_files import find_label_files, only_copy
from laser_dist.jnd.scale import MAX_QP, QP
from laser_dist.jnd.videoset_layout import videoset_source_id
from laser_dist.jnd.videoset_rows import COLUMNS as COLUMNS
from laser_dist.jnd.videoset_rows import LabelRow, read_rows

LEVEL_SUFFIXES = ("1st", "2nd", "3rd")
_SOURCE_ID = re.compile(r"videoSRC(\d{3})")
_RESOLUTION = re.compile(r"[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True)
class LevelLabel:
    """What a group of viewers said of one JND level of one source.

    Attributes:
      jnd: the level, QP in [0, 51]; near the 25th percentile of the samples, but taken as the
        dataset gives it.
      mean: mean of the samples, QP.
      anchor: the QP that this level was compared against: 0 for the first level, the level before
        for the others.
      samples: [S] the first QP that each viewer noticed, in [0, 51], at least two. A position
        identifies no viewer.
      normality: 1 if the samples passed a test for a normal distribution, else 0.
      standard_deviation: of the samples, ddof 1, QP.

    Raises:
      ValueError: a value outside the range given above.
    """

    jnd: float
    mean: float
    anchor: float
    samples: tuple[int, ...]
    normality: int
    standard_deviation: float

    def __post_init__(self) -> None:
        if len(self.samples) < 2:
            raise ValueError(f"samples: expected two or more, got {len(self.samples)}")
        for name in ("jnd", "mean", "anchor", "standard_deviation"):
            if not 0.0 <= getattr(self, name) <= MAX_QP:
                raise ValueError(f"{name}: expected 0 to {MAX_QP}, got {getattr(self, name)}")
        if not all(0 <= sample <= MAX_QP for sample in self.samples):
            raise ValueError(f"samples: expected QPs from 0 to {MAX_QP}, got {self.samples}")
        if self.normality not in {0, 1}:
            raise ValueError(f"normality: expected 0 or 1, got {self.normality}")


@dataclass(frozen=True)
class SourceLabels:
    """The three levels, JND1 to JND3, of one source.

    Attributes:
      source_id: `videoSRC001` and so on; the number is the file's `sequence_index`.
      levels: JND1, JND2, JND3.

    Raises:
      ValueError: the id is not of that form.
    """

    source_id: str
    levels: tuple[LevelLabel, LevelLabel, LevelLabel]

    def __post_init__(self) -> None:
        _sequence_index_of(self.source_id)


@dataclass(frozen=True)
class VideoSetLabels:
    """All labels of one resolution.

    Attributes:
      resolution: `640x360` and so on.
      sources: that can be used, in ascending order of their number; levels lie in [1, 51] and do
        not fall from JND1 to JND3.
      repairs: what was mended or stands out, one readable line each: file, line, what, how mended.
      faults: the sources that cannot be used, each once, in ascending order of their number.
    """

    resolution: str
    sources: tuple[SourceLabels, ...]
    repairs: tuple[str, ...]
    faults: tuple[LabelFault, ...]


def label_file_name(resolution: str, level_index: int) -> str:
    """Name of the file of one level: `640x360_1st.csv` for level index 0.

    Args:
      resolution: width x height, `640x360`.
      level_index: 0, 1 or 2 for JND1, JND2, JND3: a position in `SourceLabels.levels`.

    Raises:
      ValueError: no such level.
    """
    _check_level(level_index)
    return f"{resolution}_{LEVEL_SUFFIXES[level_index]}.csv"


def format_videoset_labels(sources: Sequence[SourceLabels], level_index: int) -> str:
    r"""Text of the label file of one level: VideoSet's columns, lines ended by `\n`.

    Rows stand in ascending order of `sequence_index`. Numbers are plain decimals without an
    exponent, the shortest that read back as the same float64 (`30`, `28.766666666666666`); nothing
    is rounded beyond that. The published files keep ten significant digits.

    Args:
      sources: labels of each source, in any order.
      level_index: 0, 1 or 2 for JND1, JND2, JND3: a position in `SourceLabels.levels`.

    Raises:
      ValueError: no such level, or a source given twice.
    """
    _check_level(level_index)
    by_index = {_sequence_index_of(source.source_id): source for source in sources}
    if len(by_index) != len(sources):
        raise ValueError("sources: expected each source once, got one twice")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sequence_index in sorted(by_index):
        label = by_index[sequence_index].levels[level_index]
        writer.writerow(_cells(sequence_index, label))
    return text.getvalue()


def read_videoset_labels(folder: Path, resolution: str = "640x360") -> VideoSetLabels:
    """Labels of all sources at one resolution, from the three files found below a local folder.

    Args:
      folder: searched with all folders below it.
      resolution: width x height, part of the files' names.

    Returns:
      As `parse_videoset_labels`, which says what is mended.

    Raises:
      UserError: no such folder or resolution, or one of the three files is missing.
      LabelFileError: as `parse_videoset_labels`.
    """
    names = _file_names(resolution)
    files = find_label_files(folder, names.__contains__)
    return parse_videoset_labels(files, resolution, where=str(folder))


def parse_videoset_labels(
    files: Sequence[LabelFile], resolution: str, *, where: str
) -> VideoSetLabels:
    """Labels of all sources at one resolution, from the three files of that resolution.

    Read without complaint: any order of columns, CRLF or LF, any number of rows. Mended and listed
    in `repairs`: columns and cells that do not belong there, a stray `=`, a `jnd` column whose
    header says `anchor`, `samples_no`, `mean` or `standard_deviation` that contradict the samples
    (the samples are believed; a mean is kept while it agrees as far as it was written out).
    Listed and kept as they stand: samples at or below the anchor, anchors that are not the level
    before. The column `jnd` is never recomputed.

    A source is left out and listed in `faults` where it lacks a row in one of the files, a level
    lies outside 1 to 51 or below the one before, or an anchor outside 0 to 51.

    Args:
      files: in any order; those of other names are passed over.
      resolution: width x height, part of the files' names.
      where: the place that was searched, for messages.

    Raises:
      UserError: no such resolution, or one of the three files is missing.
      LabelFileError: a file, or a cell of it, that cannot be read; a source twice in one file; two
        differing copies of a file.
    """
    repairs: list[str] = []
    chosen = _choose_files(files, resolution, where, repairs)
    levels = [_read_level(file, index, repairs) for index, file in enumerate(chosen)]
    sources: list[SourceLabels] = []
    faults: list[LabelFault] = []
    for sequence_index in sorted(set[int]().union(*levels)):
        found = [level.get(sequence_index) for level in levels]
        source = _assemble(videoset_source_id(sequence_index), found, chosen)
        if isinstance(source, LabelFault):
            faults.append(source)
        else:
            repairs.extend(_remarks_on_anchors(source, chosen))
            sources.append(source)
    return VideoSetLabels(resolution, tuple(sources), tuple(repairs), tuple(faults))


def _file_names(resolution: str) -> list[str]:
    """Names of the files of the three levels."""
    if not _RESOLUTION.fullmatch(resolution):
        raise UserError(
            "choosing the resolution of the labels",
            "width x height as in 640x360",
            repr(resolution),
            "Name one of the resolutions whose label files you have.",
        )
    return [label_file_name(resolution, level) for level in range(len(LEVEL_SUFFIXES))]


def _choose_files(
    files: Sequence[LabelFile], resolution: str, where: str, repairs: list[str]
) -> list[LabelFile]:
    """One file per level."""
    names = _file_names(resolution)
    copies = [[file for file in files if file.name == name] for name in names]
    missing = [name for name, found in zip(names, copies, strict=True) if not found]
    if missing:
        pattern = f"{resolution}_{{{','.join(LEVEL_SUFFIXES)}}}.csv"
        raise UserError(
            f"looking for labels in {where}",
            f"the files {pattern} in that folder or below it",
            f"no {', '.join(missing)}",
            "Put VideoSet's label files there, or name the folder that holds them.",
        )
    return [only_copy(found, repairs) for found in copies]


def _read_level(
    file: LabelFile, level_index: int, repairs: list[str]
) -> dict[int, LevelLabel | LabelFault]:
    """Each source's label in one file, or why its row is impossible; by the source's number."""
    labels: dict[int, LevelLabel | LabelFault] = {}
    for row in read_rows(file, repairs):
        sequence_index = row.whole("sequence_index", lowest=1, highest=999)
        identifier = videoset_source_id(sequence_index)
        label = _label_of(row, identifier, level_index, repairs)
        if sequence_index in labels:
            label = LabelFault(identifier, row.place, "a second row of this source")
        labels[sequence_index] = label
    if not labels:
        raise LabelFileError(file.name, None, None, "at least one row of labels", "none")
    return labels


def _label_of(
    row: LabelRow, identifier: str, level_index: int, repairs: list[str]
) -> LevelLabel | LabelFault:
    # All cells are read before any is judged: what cannot be read is an error in every row.
    jnd, anchor, samples = row.decimal("jnd"), row.decimal("anchor"), row.samples()
    mean = _agreeing(row, "mean", statistics.fmean(samples), repairs)
    deviation = _agreeing(row, "standard_deviation", statistics.stdev(samples), repairs)
    normality = row.whole("normality", lowest=0, highest=1)
    samples_no = row.whole("samples_no", lowest=0, highest=10**9 - 1)
    if samples_no != len(samples):
        repairs.append(
            f"{row.place}: samples_no {samples_no}, samples hold {len(samples)}; counted"
        )
    if not QP.lowest <= jnd <= QP.highest:
        why = f"JND{level_index + 1} {_plain(jnd)} outside {QP.lowest} to {QP.highest}"
        return LabelFault(identifier, row.place, why)
    if not QP.reference <= anchor <= QP.highest:
        why = f"anchor {_plain(anchor)} outside {QP.reference} to {QP.highest}"
        return LabelFault(identifier, row.place, why)
    too_low = [sample for sample in samples if sample <= anchor]
    if too_low:
        repairs.append(f"{row.place}: samples {too_low} at or below anchor {anchor:g}; kept")
    return LevelLabel(jnd, mean, anchor, samples, normality, deviation)


def _agreeing(row: LabelRow, column: str, from_samples: float, repairs: list[str]) -> float:
    """The column's value if it is that of the samples as far as it was written out, else theirs."""
    value = row.decimal(column)
    decimals = len(row.cells[column].partition(".")[2])
    agrees = abs(value - from_samples) <= 0.5 * 10.0**-decimals + 1e-9
    if agrees and 0.0 <= value <= MAX_QP:
        return value
    repairs.append(
        f"{row.place}: {column} {value:.10g}, of the samples "
        f"{from_samples:.10g}; taken from the samples"
    )
    return from_samples


def _assemble(
    identifier: str, found: Sequence[LevelLabel | LabelFault | None], files: Sequence[LabelFile]
) -> SourceLabels | LabelFault:
    """A source of its three levels, None where a file has no row of it; or all that is wrong."""
    labels = [label for label in found if isinstance(label, LevelLabel)]
    faults = [
        label or LabelFault(identifier, file.name, f"no row in {file.name}")
        for file, label in zip(files, found, strict=True)
        if not isinstance(label, LevelLabel)
    ]
    if not faults:
        told = [f"JND{index + 1} {_plain(label.jnd)}" for index, label in enumerate(labels)]
        faults = [
            LabelFault(identifier, files[index].name, f"{told[index]} below {told[index - 1]}")
            for index in range(1, len(labels))
            if labels[index].jnd < labels[index - 1].jnd
        ]
    if faults:
        return LabelFault(identifier, faults[0].place, "; ".join(fault.why for fault in faults))
    first, second, third = labels
    return SourceLabels(identifier, (first, second, third))


def _remarks_on_anchors(source: SourceLabels, files: Sequence[LabelFile]) -> Iterator[str]:
    expected = (0.0, source.levels[0].jnd, source.levels[1].jnd)
    for file, label, anchor in zip(files, source.levels, expected, strict=True):
        if label.anchor != anchor:
            yield (
                f"{file.name}, {source.source_id}: anchor {label.anchor:g} where the level before "
                f"gives {anchor:g}; kept"
            )


def _cells(sequence_index: int, label: LevelLabel) -> list[str]:
    """A row in the order of `COLUMNS`."""
    return [
        _plain(label.anchor),
        _plain(label.jnd),
        _plain(label.mean),
        str(int(label.normality)),
        # NumPy's integers would print as `np.int64(33)`.
        str([int(sample) for sample in label.samples]),
        str(len(label.samples)),
        str(sequence_index),
        _plain(label.standard_deviation),
    ]


def _plain(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def _sequence_index_of(identifier: str) -> int:
    match = _SOURCE_ID.fullmatch(identifier)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"source_id: expected videoSRC001 to videoSRC999, got {identifier!r}")
    return int(match[1])


def _check_level(level_index: int) -> None:
    if level_index not in range(len(LEVEL_SUFFIXES)):
        raise ValueError(f"level_index: expected 0, 1 or 2, got {level_index}")
