"""VideoSet's label files, `{resolution}_{1st,2nd,3rd}.csv`: read with their quirks, and written.

A file holds one JND level at one resolution, a row per source. All levels are quantizers (QP,
0..51, higher = worse). `VideoSetLabels.repairs` lists each repaired quirk in one line. A source
with impossible levels is left out and listed in `VideoSetLabels.faults`. A file or cell that cannot
be read raises `LabelFileError`.

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
from laser_dist.jnd.label_files import (
    LabelFault,
    LabelFile,
    LabelFileError,
    find_label_files,
    only_copy,
)
from laser_dist.jnd.scale import MAX_QP, QP
from laser_dist.jnd.videoset_layout import videoset_source_id
from laser_dist.jnd.videoset_rows import COLUMNS, LabelRow, read_rows

LEVEL_SUFFIXES = ("1st", "2nd", "3rd")
_SOURCE_ID = re.compile(r"videoSRC(\d{3})")
_RESOLUTION = re.compile(r"[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True)
class LevelLabel:
    """The labels of one JND level of one source, from a group of viewers.

    Attributes:
      jnd: the level, QP in [0, 51], as the dataset states it; near the 25th percentile of the
        samples.
      mean: mean of the samples, QP.
      anchor: the QP that this level was compared with: 0 for the first level, the previous level
        for the others.
      samples: [S] first QP that each viewer noticed, in [0, 51], at least two. Positions do not
        identify viewers.
      normality: 1 if the samples passed a test for a normal distribution, else 0.
      standard_deviation: of the samples, ddof 1, QP.
    """

    jnd: float
    mean: float
    anchor: float
    samples: tuple[int, ...]
    normality: int
    standard_deviation: float


@dataclass(frozen=True)
class SourceLabels:
    """The three levels, JND1 to JND3, of one source.

    Attributes:
      source_id: such as `videoSRC001`; the number is the `sequence_index` of the files.
      levels: JND1, JND2, JND3.
    """

    source_id: str
    levels: tuple[LevelLabel, LevelLabel, LevelLabel]


@dataclass(frozen=True)
class VideoSetLabels:
    """All labels of one resolution.

    Attributes:
      resolution: such as `640x360`.
      sources: usable sources, by ascending number; levels are in [1, 51] and do not fall from JND1
        to JND3.
      repairs: repairs and oddities, one readable line each, with file and line.
      faults: unusable sources, each once, by ascending number.
    """

    resolution: str
    sources: tuple[SourceLabels, ...]
    repairs: tuple[str, ...]
    faults: tuple[LabelFault, ...]


def label_file_name(resolution: str, level_index: int) -> str:
    """Return the file name of one level: `640x360_1st.csv` for level index 0.

    Args:
      resolution: width x height, `640x360`.
      level_index: 0, 1 or 2 for JND1, JND2, JND3; the index in `SourceLabels.levels`.
    """
    return f"{resolution}_{LEVEL_SUFFIXES[level_index]}.csv"


def format_videoset_labels(sources: Sequence[SourceLabels], level_index: int) -> str:
    r"""Return the text of the label file of one level: VideoSet's columns, lines ending in `\n`.

    Rows are ordered by `sequence_index`. Numbers are the shortest decimals without an exponent
    that read back as the same float64 (`30`, `28.766666666666666`). The published files have ten
    significant digits.

    Args:
      sources: labels of each source, in any order.
      level_index: 0, 1 or 2 for JND1, JND2, JND3; the index in `SourceLabels.levels`.

    Raises:
      ValueError: a source is given twice.
    """
    by_index = {_sequence_index_of(source.source_id): source for source in sources}
    if len(by_index) != len(sources):
        raise ValueError("sources must be distinct")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sequence_index in sorted(by_index):
        label = by_index[sequence_index].levels[level_index]
        writer.writerow(_cells(sequence_index, label))
    return text.getvalue()


def read_videoset_labels(folder: Path, resolution: str = "640x360") -> VideoSetLabels:
    """Read the labels of all sources at one resolution from a local folder.

    Args:
      folder: searched recursively for the three files.
      resolution: width x height, part of the file names.

    Returns:
      As `parse_videoset_labels`.

    Raises:
      UserError: the folder or one of the files is missing, or `resolution` is malformed.
      LabelFileError: as `parse_videoset_labels`.
    """
    names = _file_names(resolution)
    files = find_label_files(folder, names.__contains__)
    return parse_videoset_labels(files, resolution, location=str(folder))


def parse_videoset_labels(
    files: Sequence[LabelFile], resolution: str, *, location: str
) -> VideoSetLabels:
    """Parse the labels of all sources at one resolution from its three files.

    Accepted: any order of columns, CRLF or LF, any number of rows. Repaired and listed in
    `repairs`: surplus columns and cells, a stray `=`, a `jnd` column with the header `anchor`, and
    `samples_no`, `mean` or `standard_deviation` that contradict the samples (the samples win; a
    value that agrees to its written precision is kept). Kept and listed: samples at or below the
    anchor, and anchors that differ from the previous level. The column `jnd` is never recomputed.

    A source is left out and listed in `faults` if a file has no row or two rows of it, a level is
    outside 1..51 or below the previous one, or an anchor is outside 0..51.

    Args:
      files: in any order; files of other names are ignored.
      resolution: width x height, part of the file names.
      location: the folder or bucket that was searched, for messages.

    Raises:
      UserError: `resolution` is malformed, or one of the three files is missing.
      LabelFileError: a file or cell cannot be read, or two copies of a file differ.
    """
    repairs: list[str] = []
    chosen = _choose_files(files, resolution, location, repairs)
    levels = [_read_level(file, index, repairs) for index, file in enumerate(chosen)]
    sources: list[SourceLabels] = []
    faults: list[LabelFault] = []
    for sequence_index in sorted(set[int]().union(*levels)):
        found = [level.get(sequence_index) for level in levels]
        source = _assemble(videoset_source_id(sequence_index), found, chosen)
        if isinstance(source, LabelFault):
            faults.append(source)
        else:
            repairs.extend(_odd_anchors(source, chosen))
            sources.append(source)
    return VideoSetLabels(resolution, tuple(sources), tuple(repairs), tuple(faults))


def _file_names(resolution: str) -> list[str]:
    """Return the file names of the three levels."""
    if not _RESOLUTION.fullmatch(resolution):
        raise UserError(
            f"{resolution!r} is not a resolution.", hint="Write width x height, such as 640x360."
        )
    return [label_file_name(resolution, level) for level in range(len(LEVEL_SUFFIXES))]


def _choose_files(
    files: Sequence[LabelFile], resolution: str, location: str, repairs: list[str]
) -> list[LabelFile]:
    """Return one file per level."""
    names = _file_names(resolution)
    copies = [[file for file in files if file.name == name] for name in names]
    missing = [name for name, found in zip(names, copies, strict=True) if not found]
    if missing:
        raise UserError(
            f"{location} has no label file {', '.join(missing)}.",
            hint="Put VideoSet's label files there, or name the folder that contains them.",
        )
    return [only_copy(found, repairs) for found in copies]


def _read_level(
    file: LabelFile, level_index: int, repairs: list[str]
) -> dict[int, LevelLabel | LabelFault]:
    """Return the label of each source in one file, or its fault, by sequence index."""
    labels: dict[int, LevelLabel | LabelFault] = {}
    for row in read_rows(file, repairs):
        sequence_index = row.integer("sequence_index", lowest=1, highest=999)
        source_id = videoset_source_id(sequence_index)
        label = _label_of(row, source_id, level_index, repairs)
        if sequence_index in labels:
            label = LabelFault(source_id, row.location, "a second row of this source")
        labels[sequence_index] = label
    if not labels:
        raise LabelFileError(file.name, None, None, "the file has no row of labels")
    return labels


def _label_of(
    row: LabelRow, source_id: str, level_index: int, repairs: list[str]
) -> LevelLabel | LabelFault:
    # Parse all cells before checking values: an unreadable cell is an error in every row.
    jnd, anchor, samples = row.decimal("jnd"), row.decimal("anchor"), row.samples()
    mean = _agreeing(row, "mean", statistics.fmean(samples), repairs)
    deviation = _agreeing(row, "standard_deviation", statistics.stdev(samples), repairs)
    normality = row.integer("normality", lowest=0, highest=1)
    samples_no = row.integer("samples_no", lowest=0, highest=10**9 - 1)
    if samples_no != len(samples):
        repairs.append(
            f"{row.location}: samples_no is {samples_no}; counted {len(samples)} samples"
        )
    if not QP.lowest <= jnd <= QP.highest:
        reason = f"JND{level_index + 1} {_plain(jnd)} outside {QP.lowest} to {QP.highest}"
        return LabelFault(source_id, row.location, reason)
    if not QP.reference <= anchor <= QP.highest:
        reason = f"anchor {_plain(anchor)} outside {QP.reference} to {QP.highest}"
        return LabelFault(source_id, row.location, reason)
    too_low = [sample for sample in samples if sample <= anchor]
    if too_low:
        repairs.append(f"{row.location}: samples {too_low} at or below anchor {anchor:g}; kept")
    return LevelLabel(jnd, mean, anchor, samples, normality, deviation)


def _agreeing(row: LabelRow, column: str, from_samples: float, repairs: list[str]) -> float:
    """Return the value in the column if it agrees with the samples, else that of the samples."""
    value = row.decimal(column)
    decimals = len(row.cells[column].partition(".")[2])
    agrees = abs(value - from_samples) <= 0.5 * 10.0**-decimals + 1e-9
    if agrees and 0.0 <= value <= MAX_QP:
        return value
    repairs.append(
        f"{row.location}: {column} is {value:.10g}; used {from_samples:.10g}, as the samples give"
    )
    return from_samples


def _assemble(
    source_id: str, found: Sequence[LevelLabel | LabelFault | None], files: Sequence[LabelFile]
) -> SourceLabels | LabelFault:
    """Return a source, or all its faults; a level is None if its file has no row of the source."""
    labels = [label for label in found if isinstance(label, LevelLabel)]
    faults = [
        label or LabelFault(source_id, file.name, f"no row in {file.name}")
        for file, label in zip(files, found, strict=True)
        if not isinstance(label, LevelLabel)
    ]
    if not faults:
        texts = [f"JND{index + 1} {_plain(label.jnd)}" for index, label in enumerate(labels)]
        faults = [
            LabelFault(source_id, files[index].name, f"{texts[index]} below {texts[index - 1]}")
            for index in range(1, len(labels))
            if labels[index].jnd < labels[index - 1].jnd
        ]
    if faults:
        return LabelFault(
            source_id, faults[0].location, "; ".join(fault.reason for fault in faults)
        )
    first, second, third = labels
    return SourceLabels(source_id, (first, second, third))


def _odd_anchors(source: SourceLabels, files: Sequence[LabelFile]) -> Iterator[str]:
    expected = (0.0, source.levels[0].jnd, source.levels[1].jnd)
    for file, label, anchor in zip(files, source.levels, expected, strict=True):
        if label.anchor != anchor:
            yield (
                f"{file.name}, {source.source_id}: anchor {label.anchor:g} instead of the previous"
                f" level {anchor:g}; kept"
            )


def _cells(sequence_index: int, label: LevelLabel) -> list[str]:
    """Return a row in the order of `COLUMNS`."""
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


def _sequence_index_of(source_id: str) -> int:
    match = _SOURCE_ID.fullmatch(source_id)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"source_id must be videoSRC001..videoSRC999, got {source_id!r}")
    return int(match[1])
