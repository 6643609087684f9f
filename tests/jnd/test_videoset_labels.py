import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_fakes import (
    FIRST,
    HEADER,
    PLAIN,
    SECOND,
    THIRD,
    error_of_first,
    make_label,
    read_with_first,
    table,
    write,
)

from laser_dist.jnd.label_files import LabelFault
from laser_dist.jnd.videoset_labels import (
    LevelLabel,
    SourceLabels,
    format_videoset_labels,
    read_videoset_labels,
)
from laser_dist.jnd.videoset_rows import COLUMNS

labels = st.builds(
    make_label,
    st.lists(st.integers(0, 51), min_size=2, max_size=38),
    jnd=st.floats(1, 51),
    anchor=st.floats(0, 51),
    normality=st.integers(0, 1),
)
ascending = st.tuples(labels, labels, labels).map(
    lambda levels: tuple(sorted(levels, key=lambda label: label.jnd))
)
tables = st.dictionaries(st.integers(1, 999), ascending, min_size=1, max_size=4).map(
    lambda table: [SourceLabels(f"videoSRC{i:03d}", table[i]) for i in sorted(table)]
)


@pytest.mark.slow
@given(tables, st.randoms())
def test_written_labels_read_back_unchanged(tmp_path_factory, sources, random):
    shuffled = random.sample(sources, len(sources))
    texts = [format_videoset_labels(shuffled, level_index) for level_index in range(3)]
    result = read_videoset_labels(write(tmp_path_factory.mktemp("labels"), *texts))
    assert result.sources == tuple(sources)
    assert texts[0] == format_videoset_labels(sources, 0)


def test_the_three_files_become_levels_in_order(tmp_path):
    result = read_with_first(tmp_path, table(FIRST))
    assert result.resolution == "640x360"
    assert result.sources == (PLAIN,)
    assert result.repairs == ()


def test_written_text_has_videosets_columns():
    assert format_videoset_labels([PLAIN], 0) == table(FIRST)
    assert format_videoset_labels([PLAIN], 1) == table(SECOND)
    assert ",".join(COLUMNS) == HEADER


def test_numbers_are_written_as_the_shortest_plain_decimals():
    label = LevelLabel(1e-7, 86 / 3, 0.0, (np.int64(28), 29), 1, 1e-20)
    text = format_videoset_labels([SourceLabels("videoSRC007", (label, label, label))], 2)
    assert text.splitlines()[1] == (
        '0,0.0000001,28.666666666666668,1,"[28, 29]",2,7,0.00000000000000000001'
    )


def test_writing_refuses_repeated_sources():
    with pytest.raises(ValueError, match="sources must be distinct"):
        format_videoset_labels([PLAIN, PLAIN], 0)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_are_accepted(tmp_path, end, start):
    result = read_with_first(tmp_path, start + table(FIRST, end=end))
    assert result.sources == (PLAIN,)
    assert result.repairs == ()


@given(st.permutations(COLUMNS))
def test_columns_are_read_by_name(tmp_path_factory, order):
    cells = dict(zip(COLUMNS, ["0", "30", "32", "1", '"[30, 32, 34]"', "3", "1", "2"], strict=True))
    text = table(",".join(cells[name] for name in order), header=",".join(order))
    assert read_with_first(tmp_path_factory.mktemp("labels"), text).sources == (PLAIN,)


@pytest.mark.parametrize(
    "samples",
    ["[30,32,34]", "30; 32; 34", "[30 32\n 34]", "[30.0, 32.0, 34.]", " [ 30 , 32 ,34 ] "],
)
def test_sample_lists_of_other_programs_are_accepted(tmp_path, samples):
    row = FIRST.replace("[30, 32, 34]", samples)
    assert read_with_first(tmp_path, table(row)).sources == (PLAIN,)


def test_values_that_agree_to_their_written_precision_are_kept(tmp_path):
    # Of 30, 31, 33: the mean is 31.333..., the standard deviation sqrt(7 / 3) = 1.5275...
    row = '0,30,31.33333333,1,"[30, 31, 33]",3,1,1.53'
    result = read_with_first(tmp_path, table(row))
    label = result.sources[0].levels[0]
    assert (label.mean, label.standard_deviation) == (31.33333333, 1.53)
    assert result.repairs == ()


def test_values_that_contradict_the_samples_are_repaired(tmp_path):
    result = read_with_first(tmp_path, table('0,30,32.1,1,"[30, 32, 34]",4,1,2.01'))
    assert result.sources == (PLAIN,)
    assert result.repairs == (
        "640x360_1st.csv, line 2: mean is 32.1; used 32, as the samples give",
        "640x360_1st.csv, line 2: standard_deviation is 2.01; used 2, as the samples give",
        "640x360_1st.csv, line 2: samples_no is 4; counted 3 samples",
    )


def test_the_level_is_never_recomputed(tmp_path):
    # The 25th percentile of 30, 32, 34 is 30.
    result = read_with_first(tmp_path, table(FIRST.replace("0,30,", "0,31.5,", 1)))
    assert result.sources[0].levels[0].jnd == 31.5


def test_empty_columns_and_a_stray_equals_sign(tmp_path):
    other = FIRST.replace(",1,2", ",2,2")
    text = table(f"{FIRST},,,,", f"{other},,=,,", header=f"{HEADER},,,,")
    others = [table(row, row.replace(",1,2", ",2,2")) for row in (SECOND, THIRD)]
    result = read_videoset_labels(write(tmp_path, text, *others))
    assert [source.levels for source in result.sources] == [PLAIN.levels] * 2
    assert result.repairs == (
        f"640x360_1st.csv, line 1: other columns {['unnamed'] * 4}; ignored",
        "640x360_1st.csv, line 3: a stray '='; dropped",
    )


@pytest.mark.parametrize(
    ("header", "row", "repair"),
    [
        (HEADER, f"{FIRST},,=", "line 2: a stray '='; dropped"),
        (HEADER, FIRST.replace(",30,", ",=30,"), "line 2: a stray '='; dropped"),
        (HEADER, f"{FIRST}\n,,,,,,,,=", "line 3: an empty row; ignored"),
        (HEADER, f"{FIRST}\n,,,,,,,", "line 3: an empty row; ignored"),
        (f"{HEADER},", FIRST, "line 1: other columns ['unnamed']; ignored"),
        (f",{HEADER}", f"0,{FIRST}", "line 1: other columns ['unnamed']; ignored"),
        (f"note,{HEADER}", f"a=b,{FIRST}", "line 1: other columns ['note']; ignored"),
    ],
)
def test_surplus_cells_are_dropped_and_listed(tmp_path, header, row, repair):
    result = read_with_first(tmp_path, table(row, header=header))
    assert result.sources == (PLAIN,)
    assert f"640x360_1st.csv, {repair}" in result.repairs


@pytest.mark.parametrize(
    "text",
    [
        table(FIRST, header=HEADER.replace("jnd", "anchor")),
        # The level comes before its anchor.
        table(FIRST.replace("0,30,", "30,0,", 1), header=HEADER.replace("jnd", "anchor")),
        table(FIRST.replace("0,30,", " 30 , 0,", 1), header=HEADER.replace("jnd", "anchor")),
    ],
)
def test_of_two_columns_called_anchor_the_higher_is_the_level(tmp_path, text):
    result = read_with_first(tmp_path, text)
    assert result.sources == (PLAIN,)
    assert result.repairs == ("640x360_1st.csv, line 1: two columns 'anchor'; the higher is 'jnd'",)


def test_two_columns_called_anchor_without_a_higher_one_are_an_error(tmp_path):
    rows = FIRST, FIRST.replace("0,30,", "30,0,", 1).replace(",1,2", ",2,2")
    error = error_of_first(tmp_path, table(*rows, header=HEADER.replace("jnd", "anchor")))
    assert (error.line, error.column) == (1, "anchor")
    assert error.problem.startswith("neither of the two columns")


def test_samples_at_or_below_the_anchor_are_kept_and_listed(tmp_path):
    second = table('30,33,32,1,"[29, 30, 37]",3,1,4.358898944')  # sqrt((9 + 4 + 25) / 2)
    result = read_videoset_labels(write(tmp_path, table(FIRST), second, table(THIRD)))
    assert result.sources[0].levels[1].samples == (29, 30, 37)
    assert result.repairs == (
        "640x360_2nd.csv, line 2: samples [29, 30] at or below anchor 30; kept",
    )


def test_an_anchor_other_than_the_previous_level_is_kept_and_listed(tmp_path):
    second = table(SECOND.replace("30,33", "29,33", 1))
    result = read_videoset_labels(write(tmp_path, table(FIRST), second, table(THIRD)))
    assert result.sources[0].levels[1].anchor == 29.0
    assert result.repairs == (
        "640x360_2nd.csv, videoSRC001: anchor 29 instead of the previous level 30; kept",
    )


@pytest.mark.parametrize(
    ("old", "new", "column", "wanted", "found"),
    [
        (",30,", ",,", "jnd", "a decimal number", "an empty cell"),
        (",30,", ",thirty,", "jnd", "a decimal number", "'thirty'"),
        (",30,", ",3e1,", "jnd", "a decimal number", "'3e1'"),
        (",30,", ",nan,", "jnd", "a decimal number", "'nan'"),
        (",32,", ",x,", "mean", "a decimal number", "'x'"),
        (",1,2", ",1,", "standard_deviation", "a decimal number", "an empty cell"),
        (",1,2", ",0,2", "sequence_index", "an integer from 1 to 999", "'0'"),
        (",1,2", ",1.5,2", "sequence_index", "an integer from 1 to 999", "'1.5'"),
        (",1,2", f",{'9' * 5000},2", "sequence_index", "an integer", f"'{'9' * 80}...'"),
        (",3,1", ",many,1", "samples_no", "an integer", "'many'"),
        ("32,1,", "32,2,", "normality", "an integer from 0 to 1", "'2'"),
        ("[30, 32, 34]", "[]", "samples", "a list of two or more QPs", "'[]'"),
        ("[30, 32, 34]", "[30]", "samples", "a list of two or more QPs", "'[30]'"),
        ("[30, 32, 34]", "[30, , 34]", "samples", "a list of two or more QPs", "'[30, , 34]'"),
        ("[30, 32, 34]", "[30, 52]", "samples", "QPs from 0 to 51", "'[30, 52]'"),
        ("[30, 32, 34]", "[30, -1]", "samples", "QPs from 0 to 51", "'[30, -1]'"),
        ("[30, 32, 34]", "[30, 32", "samples", "a list of two or more QPs", "'[30, 32'"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(tmp_path, old, new, column, wanted, found):
    assert FIRST.count(old) == 1
    error = error_of_first(tmp_path, table(FIRST.replace(",1,2", ",2,2"), FIRST.replace(old, new)))
    assert (error.file, error.line, error.column) == ("640x360_1st.csv", 3, column)
    assert error.problem.startswith(f"{found} is not ")
    assert wanted in error.problem
    assert "\n" not in error.message


def test_multi_line_cells_count_as_several_lines(tmp_path):
    tall = FIRST.replace("[30, 32, 34]", "[30,\n32,\n34]")
    bad = FIRST.replace(",30,", ",?,").replace(",1,2", ",2,2")
    # The header is line 1, the tall row lines 2 to 4, the blank line 5.
    error = error_of_first(tmp_path, table(tall, "", bad))
    assert (error.line, error.column) == (6, "jnd")


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        ("", None, None, "the file is empty"),
        (f"{HEADER}\n", None, None, "no row of labels"),
        (table(FIRST, header=HEADER.replace("mean", "m")), 1, "mean", "columns are 'anchor,jnd,m,"),
        (table(FIRST, header=f"{HEADER},jnd"), 1, "jnd", "standard_deviation,jnd'; they must"),
        (table("0,30,32"), 2, None, "3 cells instead of 8"),
        (table(FIRST.replace('"', "")), 2, None, "10 cells instead of 8"),
        (table('0,30,32,1,"[30, 32'), 2, None, "not valid CSV (unexpected end of data)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, line, column, problem):
    error = error_of_first(tmp_path, text)
    assert (error.file, error.line, error.column) == ("640x360_1st.csv", line, column)
    assert problem in error.problem


def test_a_repeated_source_is_a_fault(tmp_path):
    other = FIRST.replace(",1,2", ",2,2")
    texts = [table(row, row.replace(",1,2", ",2,2")) for row in (SECOND, THIRD)]
    result = read_videoset_labels(write(tmp_path, table(FIRST, other, FIRST), *texts))
    assert [source.source_id for source in result.sources] == ["videoSRC002"]
    (fault,) = result.faults
    assert (fault.source_id, fault.reason) == ("videoSRC001", "a second row of this source")


def test_a_missing_source_is_a_fault(tmp_path):
    second = table(SECOND, SECOND.replace(",1,2", ",2,2"))
    third = table(THIRD, THIRD.replace(",1,2", ",3,2"))
    result = read_videoset_labels(write(tmp_path, table(FIRST), second, third))
    assert result.sources == (PLAIN,)
    assert result.faults == (
        LabelFault(
            "videoSRC002",
            "640x360_1st.csv",
            "no row in 640x360_1st.csv; no row in 640x360_3rd.csv",
        ),
        LabelFault(
            "videoSRC003",
            "640x360_1st.csv",
            "no row in 640x360_1st.csv; no row in 640x360_2nd.csv",
        ),
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("30,33,", "30,52,", "JND2 52 outside 1 to 51"),
        ("30,33,", "30,0,", "JND2 0 outside 1 to 51"),
        ("30,33,", "30,0.99,", "JND2 0.99 outside 1 to 51"),
        ("30,33,", "30,-33,", "JND2 -33 outside 1 to 51"),
        ("30,33,", f"30,{'9' * 400},", "JND2 inf outside 1 to 51"),
        ("30,33,", "-1,33,", "anchor -1 outside 0 to 51"),
        ("30,33,", "51.5,33,", "anchor 51.5 outside 0 to 51"),
    ],
)
def test_a_level_or_anchor_out_of_range_is_a_fault(tmp_path, old, new, reason):
    bad = SECOND.replace(",1,2", ",2,2").replace(old, new)
    files = [table(row, row.replace(",1,2", ",2,2")) for row in (FIRST, THIRD)]
    result = read_videoset_labels(write(tmp_path, files[0], table(SECOND, bad), files[1]))
    assert result.sources == (PLAIN,)
    assert result.faults == (LabelFault("videoSRC002", "640x360_2nd.csv, line 3", reason),)


@pytest.mark.parametrize(
    ("levels", "reason", "location"),
    [
        ((30, 24, 37), "JND2 24 below JND1 30", "640x360_2nd.csv"),
        ((30, 33, 32.5), "JND3 32.5 below JND2 33", "640x360_3rd.csv"),
        ((30, 24, 23), "JND2 24 below JND1 30; JND3 23 below JND2 24", "640x360_2nd.csv"),
    ],
)
def test_falling_levels_are_a_fault(tmp_path, levels, reason, location):
    rows = [FIRST.replace(",30,", f",{levels[0]},")]
    rows.append(SECOND.replace(",33,", f",{levels[1]},"))
    rows.append(THIRD.replace(",37,", f",{levels[2]},"))
    result = read_videoset_labels(write(tmp_path, *map(table, rows)))
    assert result.sources == ()
    assert result.faults == (LabelFault("videoSRC001", location, reason),)


@pytest.mark.parametrize("level", [1, 51])
def test_equal_levels_and_the_ends_of_the_scale_are_accepted(tmp_path, level):
    row = f'0,{level},{level},1,"[{level}, {level}]",2,1,0'
    result = read_videoset_labels(write(tmp_path, *[table(row)] * 3))
    assert [label.jnd for label in result.sources[0].levels] == [level] * 3
    assert result.faults == ()


@pytest.mark.parametrize("written", ["320", "-32", "51.0000000001", "-0.0000000001"])
def test_a_mean_or_deviation_out_of_range_is_taken_from_the_samples(tmp_path, written):
    for samples, mean in (("51, 51", 51), ("0, 0", 0)):
        row = f'0,30,{written},1,"[{samples}]",2,1,{written}'
        label = read_with_first(tmp_path, table(row)).sources[0].levels[0]
        assert (label.mean, label.standard_deviation) == (mean, 0)
