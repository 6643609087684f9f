"""Damaged label files: each gives the labels still in its text, or an error or fault.

A second, simpler parser for well-formed text gives the expected labels.
"""

import itertools
import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from label_fakes import make_label

from laser_dist.errors import UserError
from laser_dist.jnd.label_files import LabelFile
from laser_dist.jnd.mcl_jci_labels import (
    ViewerChain,
    format_mcl_jci_viewers,
    parse_mcl_jci_labels,
)
from laser_dist.jnd.mcl_jci_layout import TextName, mcl_jci_source_id
from laser_dist.jnd.videoset_labels import (
    SourceLabels,
    format_videoset_labels,
    label_file_name,
    parse_videoset_labels,
)

pytestmark = pytest.mark.slow

NUM_FILES = 1000
CELL = re.compile(rb'"[^"\n]*"|[^,; \r\n]+')


def flip_a_bit(data, rng):
    index = rng.integers(len(data))
    return data[:index] + bytes([data[index] ^ (1 << rng.integers(8))]) + data[index + 1 :]


def change_a_digit(data, rng):
    digits = [index for index, byte in enumerate(data) if chr(byte).isdigit()]
    index = rng.choice(digits) if digits else 0
    return data[:index] + str(rng.integers(10)).encode() + data[index + 1 :]


def cut_the_end(data, rng):
    return data[: rng.integers(1, len(data) + 1)]


def cut_a_piece(data, rng):
    start = rng.integers(len(data))
    return data[:start] + data[start + rng.integers(1, 4) :] or b"\n"


def delete_a_line(data, rng):
    lines = data.splitlines(keepends=True)
    del lines[rng.integers(len(lines))]
    return b"".join(lines) or b"\n"


def double_a_line(data, rng):
    lines = data.splitlines(keepends=True)
    lines.insert(rng.integers(len(lines)), lines[rng.integers(len(lines))])
    return b"".join(lines)


def swap_two_cells(data, rng):
    cells = list(CELL.finditer(data))
    if len(cells) < 2:
        return data
    # Close to each other, to include cells of one row and of one column.
    index = rng.integers(len(cells) - 1)
    other = min(index + rng.choice([1, 2, 8]), len(cells) - 1)
    (a, b), (c, d) = cells[index].span(), cells[other].span()
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


DAMAGES = (
    flip_a_bit,
    change_a_digit,
    cut_the_end,
    cut_a_piece,
    delete_a_line,
    double_a_line,
    swap_two_cells,
)


def damage(data, rng):
    for _ in range(rng.integers(1, 3)):
        data = DAMAGES[rng.integers(len(DAMAGES))](data, rng)
    return data


def table_or_error(parse, *args, **kwargs):
    """Return the labels, or None if the files are refused; other exceptions propagate."""
    try:
        return parse(*args, **kwargs)
    except UserError as error:
        message = error.message
    assert "\n" not in message
    return None


def kinds_of(table, num_sources):
    if table is None:
        return ["error"]
    kinds = {"faults": table.faults, "repairs": table.repairs}
    kinds["complete"] = len(table.sources) == num_sources
    return [kind for kind, is_met in kinds.items() if is_met]


def assert_all_kinds(outcomes):
    """Check that each kind of outcome occurred often enough for the checks above to matter."""
    for kind in ("error", "faults", "repairs", "complete"):
        assert outcomes[kind] > NUM_FILES // 20, outcomes


# VideoSet


def videoset_tables(rng):
    """Return three texts of five sources, in one of the forms in circulation."""
    sources = []
    for source_index in range(1, 6):
        levels, anchor = [], 0
        for step in (26, 5, 4):
            level = anchor + int(rng.integers(step - 3, step + 3))
            samples = rng.integers(max(level - 4, anchor + 1), min(level + 8, 52), 25)
            levels.append(make_label(samples.tolist(), float(level), float(anchor)))
            anchor = level
        sources.append(SourceLabels(f"videoSRC{source_index:03d}", tuple(levels)))
    texts = [format_videoset_labels(sources, level_index) for level_index in range(3)]
    form = rng.integers(4)
    if form == 1:
        texts = [text.replace("\n", "\r\n") for text in texts]
    if form == 2:
        texts = [text.replace("\n", ",,\n") for text in texts]
    if form == 3:
        texts[0] = texts[0].replace("jnd", "anchor")
    return [text.encode() for text in texts]


def csv_rows(text):
    """Parse rows of well-formed CSV, character by character."""
    rows, row, cell, is_quoted = [], [], "", False
    for char in text.replace("\r\n", "\n").replace("\r", "\n") + "\n":
        if char == '"' and (is_quoted or not cell):
            is_quoted = not is_quoted
        elif char in ",\n" and not is_quoted:
            row.append(cell)
            cell = ""
            if char == "\n":
                rows.append(row)
                row = []
        else:
            cell += char
    return [row for row in rows if row != [""]]


def parsed_table(data):
    """Map the number of each source to its rows, each a dictionary by column."""
    header, *rows = csv_rows(data.decode("utf-8-sig"))
    names = [name.strip() for name in header]
    expected = defaultdict(list)
    for cells in rows:
        stripped = [cell.strip(" =") for cell in cells]
        row = dict(zip(names, stripped, strict=False))
        if not any(stripped):
            continue
        assert not any(stripped[len(names) :]), "the row holds more than the header names"
        if "jnd" not in names:
            pair = [cell for name, cell in zip(names, stripped, strict=False) if name == "anchor"]
            row["anchor"], row["jnd"] = sorted(pair, key=float)
        expected[int(float(row["sequence_index"]))].append(row)
    return expected


def check_level(label, row, repairs):
    samples = [int(float(part)) for part in re.split(r"[\[\],;\s]+", row["samples"]) if part]
    mean = sum(samples) / len(samples)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in samples) / (len(samples) - 1))
    assert label.samples == tuple(samples)
    assert (label.jnd, label.anchor) == (float(row["jnd"]), float(row["anchor"]))
    assert label.normality == float(row["normality"])
    for column, of_samples in (("mean", mean), ("standard_deviation", deviation)):
        value = getattr(label, column)
        if value != float(row[column]):
            assert value == pytest.approx(of_samples, abs=1e-12)
            assert any(f": {column} " in repair for repair in repairs)
    if float(row["samples_no"]) != len(samples):
        assert any(": samples_no is" in repair for repair in repairs)


def check_videoset(table, contents):
    expected = [parsed_table(data) for data in contents]
    ids = [source.source_id for source in table.sources]
    faulty = [fault.source_id for fault in table.faults]
    # Every source is listed, and none twice.
    all_ids = {f"videoSRC{index:03d}" for index in set[int]().union(*expected)}
    assert sorted(ids + faulty) == sorted(all_ids)
    for source in table.sources:
        for label, rows in zip(source.levels, expected, strict=True):
            (row,) = rows[int(source.source_id[-3:])]
            check_level(label, row, table.repairs)
        first, second, third = (label.jnd for label in source.levels)
        assert 1 <= first <= second <= third <= 51


def test_damaged_tables_of_videoset():
    rng = np.random.default_rng(20)
    names = [label_file_name("640x360", level_index) for level_index in range(3)]
    outcomes = Counter()
    for _ in range(NUM_FILES):
        contents = videoset_tables(rng)
        which = rng.integers(3)
        contents[which] = damage(contents[which], rng)
        files = [LabelFile(n, n, data) for n, data in zip(names, contents, strict=True)]
        table = table_or_error(parse_videoset_labels, files, "640x360", location="here")
        if table is not None:
            check_videoset(table, contents)
        outcomes.update(kinds_of(table, num_sources=5))
    assert_all_kinds(outcomes)


# MCL-JCI


def mcl_jci_texts(rng):
    """Map names to bytes: a viewers' and a stairs' text of two sources."""
    texts = {}
    for source_index in (1, 2):
        chains = []
        for viewer in range(30):
            length = int(rng.choice([1, 2, 3, 5, 8], p=[0.01, 0.09, 0.3, 0.3, 0.3]))
            values = np.sort(rng.choice(np.arange(8, 60), length, replace=False))[::-1]
            chains.append(ViewerChain(f"S{viewer + 1:02d}", tuple(values.tolist())))
        separator = rng.choice([" ", "\t", ",", "; "])
        text = format_mcl_jci_viewers(chains).replace(" ", separator)
        texts[TextName(source_index=source_index, kind="viewers")] = text.encode()
        stairs = "100 44 31 22 15\n0.1 0.3 0.2 0.2 0.2\n"
        texts[TextName(source_index=source_index, kind="stairs")] = stairs.encode()
    return texts


def lines_of(data):
    """Yield the cells of each non-empty line; one between two commas may be empty."""
    text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").replace(";", ",")
    for line in text.split("\n"):
        if bare := line.strip().rstrip(", \t"):
            yield [cell for part in bare.split(",") for cell in part.split() or ["0"]]


def parsed_viewers(data):
    """Return each viewer's name and quality factors in order, without repeated lines."""
    expected = {}
    for subject, *cells in lines_of(data):
        values = [value for value, _ in itertools.groupby(int(float(cell)) for cell in cells)]
        expected[subject, tuple(values[:-1] if values[-1:] == [0] else values)] = None
    return list(expected)


def check_mcl_jci(table, texts):
    ids = [source.source_id for source in table.sources]
    assert sorted([*ids, *(fault.source_id for fault in table.faults)]) == [
        mcl_jci_source_id(1),
        mcl_jci_source_id(2),
    ]
    for source in table.sources:
        index = int(source.source_id[-2:])
        expected = parsed_viewers(texts[TextName(source_index=index, kind="viewers")])
        assert [(chain.subject, chain.quality_factors) for chain in source.chains] == expected
        for level_index, level in enumerate(source.levels("viewers")):
            samples = sorted(
                (v[level_index] for _, v in expected if len(v) > level_index), reverse=True
            )
            quarter = samples[(len(samples) + 3) // 4 - 1] if len(samples) > 1 else math.nan
            assert level == pytest.approx(quarter, nan_ok=True)
        for _, values in expected:
            assert all(1 <= value <= 99 for value in values)
            assert list(values) == sorted(set(values), reverse=True)
        check_stairs(source, texts[TextName(source_index=index, kind="stairs")], table.repairs)


def check_stairs(source, data, repairs):
    if source.stairs is None:
        assert any("these stairs are ignored" in repair for repair in repairs)
        return
    cells = next(lines_of(data))
    expected = sorted({int(float(cell)) for cell in cells} - {0}, reverse=True)
    assert list(source.stairs) == [value for value in expected if value != 100]


def test_damaged_texts_of_mcl_jci():
    rng = np.random.default_rng(21)
    outcomes = Counter()
    intact = {}
    for index in range(NUM_FILES):
        if index % 10 == 0:
            intact = mcl_jci_texts(rng)  # slower to make than to parse
        texts = dict(intact)
        which = list(texts)[rng.choice(4, p=[0.4, 0.1, 0.4, 0.1])]
        texts[which] = damage(texts[which], rng)
        files = [LabelFile(n.path.name, str(n.path), data) for n, data in texts.items()]
        table = table_or_error(parse_mcl_jci_labels, files, location="here")
        if table is not None:
            check_mcl_jci(table, texts)
        outcomes.update(kinds_of(table, num_sources=2))
    assert_all_kinds(outcomes)
