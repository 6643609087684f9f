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

from laser_dist.jnd.labels import (
    COLUMNS,
    LabelFileError,
    LevelLabel,
    SourceLabels,
    format_videoset_labels,
    label_file_name,
    read_videoset_labels,
)

qps = st.floats(0, 51)
labels = st.builds(
    make_label,
    st.lists(st.integers(0, 51), min_size=2, max_size=38),
    jnd=qps,
    anchor=qps,
    normality=st.integers(0, 1),
)
tables = st.dictionaries(
    st.integers(1, 999), st.tuples(labels, labels, labels), min_size=1, max_size=4
).map(lambda table: [SourceLabels(f"videoSRC{i:03d}", table[i]) for i in sorted(table)])


@given(tables, st.randoms())
def test_read_gives_back_what_was_written(tmp_path_factory, sources, random):
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


def test_written_text_is_videosets_layout():
    assert format_videoset_labels([PLAIN], 0) == table(FIRST)
    assert format_videoset_labels([PLAIN], 1) == table(SECOND)
    assert ",".join(COLUMNS) == HEADER


def test_numbers_are_written_as_the_shortest_plain_decimals():
    label = LevelLabel(1e-7, 86 / 3, 0.0, (np.int64(28), 29), 1, 1e-20)
    text = format_videoset_labels([SourceLabels("videoSRC007", (label, label, label))], 2)
    assert text.splitlines()[1] == (
        '0,0.0000001,28.666666666666668,1,"[28, 29]",2,7,0.00000000000000000001'
    )


def test_writing_refuses_a_source_twice_and_a_level_that_is_not():
    with pytest.raises(ValueError, match="each source once"):
        format_videoset_labels([PLAIN, PLAIN], 0)
    with pytest.raises(ValueError, match="expected 0, 1 or 2, got 3"):
        format_videoset_labels([PLAIN], 3)
    with pytest.raises(ValueError, match="expected 0, 1 or 2, got -1"):
        label_file_name("640x360", -1)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_are_no_matter(tmp_path, end, start):
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
def test_lists_of_samples_as_other_programs_write_them(tmp_path, samples):
    row = FIRST.replace("[30, 32, 34]", samples)
    assert read_with_first(tmp_path, table(row)).sources == (PLAIN,)


def test_values_rounded_when_written_are_kept_as_they_stand(tmp_path):
    # Of 30, 31, 33: the mean is 31.333..., the standard deviation sqrt(7 / 3) = 1.5275...
    row = '0,30,31.33333333,1,"[30, 31, 33]",3,1,1.53'
    result = read_with_first(tmp_path, table(row))
    label = result.sources[0].levels[0]
    assert (label.mean, label.standard_deviation) == (31.33333333, 1.53)
    assert result.repairs == ()


def test_mean_deviation_and_number_that_contradict_the_samples_are_mended(tmp_path):
    result = read_with_first(tmp_path, table('0,30,32.1,1,"[30, 32, 34]",4,1,2.01'))
    assert result.sources == (PLAIN,)
    assert result.repairs == (
        "640x360_1st.csv, line 2: mean 32.1, of the samples 32; taken from the samples",
        "640x360_1st.csv, line 2: standard_deviation 2.01, of the samples 2; "
        "taken from the samples",
        "640x360_1st.csv, line 2: samples_no 4, samples hold 3; counted",
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
        "640x360_1st.csv, line 1: columns ['without a name', 'without a name', 'without a name', "
        "'without a name']; ignored",
        "640x360_1st.csv, line 3: a stray '='; dropped",
    )


@pytest.mark.parametrize(
    ("header", "row", "repair"),
    [
        (HEADER, f"{FIRST},,=", "line 2: a stray '='; dropped"),
        (HEADER, FIRST.replace(",30,", ",=30,"), "line 2: a stray '='; dropped"),
        (HEADER, f"{FIRST}\n,,,,,,,,=", "line 3: no values in the row; ignored"),
        (HEADER, f"{FIRST}\n,,,,,,,", "line 3: no values in the row; ignored"),
        (f"{HEADER},", FIRST, "line 1: columns ['without a name']; ignored"),
        (f",{HEADER}", f"0,{FIRST}", "line 1: columns ['without a name']; ignored"),
        (f"note,{HEADER}", f"a=b,{FIRST}", "line 1: columns ['note']; ignored"),
    ],
)
def test_what_does_not_belong_there_is_left_out_and_listed(tmp_path, header, row, repair):
    result = read_with_first(tmp_path, table(row, header=header))
    assert result.sources == (PLAIN,)
    assert f"640x360_1st.csv, {repair}" in result.repairs


@pytest.mark.parametrize(
    "text",
    [
        table(FIRST, header=HEADER.replace("jnd", "anchor")),
        # The level stands before its anchor.
        table(FIRST.replace("0,30,", "30,0,", 1), header=HEADER.replace("jnd", "anchor")),
        table(FIRST.replace("0,30,", " 30 , 0,", 1), header=HEADER.replace("jnd", "anchor")),
    ],
)
def test_of_two_columns_called_anchor_the_higher_is_the_level(tmp_path, text):
    result = read_with_first(tmp_path, text)
    assert result.sources == (PLAIN,)
    assert result.repairs == ("640x360_1st.csv, line 1: two columns 'anchor'; the higher is 'jnd'",)


def test_two_columns_called_anchor_that_nothing_tells_apart(tmp_path):
    rows = FIRST, FIRST.replace("0,30,", "30,0,", 1).replace(",1,2", ",2,2")
    error = error_of_first(tmp_path, table(*rows, header=HEADER.replace("jnd", "anchor")))
    assert (error.line, error.column, error.got) == (1, "anchor", "neither")


def test_samples_at_or_below_the_anchor_are_kept_and_listed(tmp_path):
    second = table('30,33,32,1,"[29, 30, 37]",3,1,4.358898944')  # sqrt((9 + 4 + 25) / 2)
    result = read_videoset_labels(write(tmp_path, table(FIRST), second, table(THIRD)))
    assert result.sources[0].levels[1].samples == (29, 30, 37)
    assert result.repairs == (
        "640x360_2nd.csv, line 2: samples [29, 30] at or below anchor 30; kept",
    )


def test_an_anchor_that_is_not_the_level_before_is_kept_and_listed(tmp_path):
    second = table(SECOND.replace("30,33", "29,33", 1))
    result = read_videoset_labels(write(tmp_path, table(FIRST), second, table(THIRD)))
    assert result.sources[0].levels[1].anchor == 29.0
    assert result.repairs == (
        "640x360_2nd.csv, videoSRC001: anchor 29 where the level before gives 30; kept",
    )


@pytest.mark.parametrize(
    ("old", "new", "column", "expected", "got"),
    [
        (",30,", ",,", "jnd", "a decimal number from 0 to 51", "nothing"),
        (",30,", ",thirty,", "jnd", "a decimal number from 0 to 51", "'thirty'"),
        (",30,", ",3e1,", "jnd", "a decimal number from 0 to 51", "'3e1'"),
        (",30,", ",nan,", "jnd", "a decimal number from 0 to 51", "'nan'"),
        (",30,", ",52,", "jnd", "a decimal number from 0 to 51", "'52'"),
        ("0,30", "-1,30", "anchor", "a decimal number from 0 to 51", "'-1'"),
        (",32,", ",x,", "mean", "a decimal number from 0 to 51", "'x'"),
        (",1,2", ",1,", "standard_deviation", "a decimal number from 0 to 51", "nothing"),
        (",1,2", ",0,2", "sequence_index", "a whole number from 1 to 999", "'0'"),
        (",1,2", ",1.5,2", "sequence_index", "a whole number from 1 to 999", "'1.5'"),
        (",1,2", f",{'9' * 5000},2", "sequence_index", "a whole number", f"'{'9' * 80}...'"),
        (",3,1", ",many,1", "samples_no", "a whole number", "'many'"),
        ("32,1,", "32,2,", "normality", "a whole number from 0 to 1", "'2'"),
        ("[30, 32, 34]", "[]", "samples", "a list of two or more QPs", "'[]'"),
        ("[30, 32, 34]", "[30]", "samples", "a list of two or more QPs", "'[30]'"),
        ("[30, 32, 34]", "[30, , 34]", "samples", "a list of two or more QPs", "'[30, , 34]'"),
        ("[30, 32, 34]", "[30, 52]", "samples", "QPs from 0 to 51", "'[30, 52]'"),
        ("[30, 32, 34]", "[30, -1]", "samples", "QPs from 0 to 51", "'[30, -1]'"),
        ("[30, 32, 34]", "[30, 32", "samples", "a list of two or more QPs", "'[30, 32'"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(tmp_path, old, new, column, expected, got):
    assert FIRST.count(old) == 1
    error = error_of_first(tmp_path, table(FIRST.replace(",1,2", ",2,2"), FIRST.replace(old, new)))
    assert (error.file, error.line, error.column) == ("640x360_1st.csv", 3, column)
    assert expected in error.expected
    assert error.got == got
    assert "\n" not in str(error)


def test_lines_are_counted_through_cells_of_several_lines(tmp_path):
    tall = FIRST.replace("[30, 32, 34]", "[30,\n32,\n34]")
    bad = FIRST.replace(",30,", ",?,").replace(",1,2", ",2,2")
    # The header is line 1, the tall row lines 2 to 4, the blank line 5.
    error = error_of_first(tmp_path, table(tall, "", bad))
    assert (error.line, error.column) == (6, "jnd")


@pytest.mark.parametrize(
    ("text", "line", "column", "expected", "got"),
    [
        ("", 1, None, f"a header {HEADER}", "an empty file"),
        (f"{HEADER}\n", None, None, "at least one row", "none"),
        (table(FIRST, header=HEADER.replace("mean", "m")), 1, "mean", "each once", "anchor,jnd,m,"),
        (table(FIRST, header=f"{HEADER},jnd"), 1, "jnd", "each once", "standard_deviation,jnd"),
        (table(FIRST, FIRST), 3, "sequence_index", "each number once", "'1'"),
        (table("0,30,32"), 2, None, "8 cells", "3"),
        (table(FIRST.replace('"', "")), 2, None, "8 cells", "10"),
        (table('0,30,32,1,"[30, 32'), 2, None, "CSV in UTF-8", "unexpected end of data"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, line, column, expected, got):
    error = error_of_first(tmp_path, text)
    assert (error.file, error.line, error.column) == ("640x360_1st.csv", line, column)
    assert expected in error.expected
    assert got in error.got


def test_files_that_hold_different_sources(tmp_path):
    other = table(SECOND.replace(",1,2", ",2,2"))
    with pytest.raises(LabelFileError) as caught:
        read_videoset_labels(write(tmp_path, table(FIRST), other, table(THIRD)))
    assert caught.value.file == "640x360_2nd.csv"
    assert caught.value.expected == "the same numbers as in 640x360_1st.csv"
    assert caught.value.got == "[1] missing and [2] added"


def test_a_file_that_holds_a_source_more(tmp_path):
    third = table(THIRD, THIRD.replace(",1,2", ",2,2"))
    with pytest.raises(LabelFileError, match=r"640x360_3rd.csv.* got \[\] missing and \[2\] added"):
        read_videoset_labels(write(tmp_path, table(FIRST), table(SECOND), third))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"samples": (30,)}, "samples: expected two or more, got 1"),
        ({"samples": (30, 52)}, "samples: expected QPs from 0 to 51"),
        ({"jnd": 51.5}, "jnd: expected 0 to 51, got 51.5"),
        ({"mean": float("nan")}, "mean: expected 0 to 51, got nan"),
        ({"anchor": -1.0}, "anchor: expected 0 to 51, got -1.0"),
        ({"normality": 2}, "normality: expected 0 or 1, got 2"),
        ({"standard_deviation": float("inf")}, "standard_deviation: expected 0 to 51, got inf"),
    ],
)
def test_a_label_refuses_what_no_file_could_hold(change, text):
    values = vars(PLAIN.levels[0]) | change
    with pytest.raises(ValueError, match=text):
        LevelLabel(**values)


@pytest.mark.parametrize("source_id", ["videoSRC000", "videoSRC1", "videoSRC1000", "SRC001"])
def test_a_source_id_that_names_no_row_is_refused(source_id):
    with pytest.raises(ValueError, match="videoSRC001 to videoSRC999, got"):
        SourceLabels(source_id, PLAIN.levels)
