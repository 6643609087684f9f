import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.jnd.label_files import LabelFault, LabelFile, LabelFileError
from laser_dist.jnd.mcl_jci_labels import (
    MclJciSource,
    ViewerChain,
    format_mcl_jci_viewers,
    parse_mcl_jci_labels,
    read_mcl_jci_labels,
)

CHAINS = (
    ViewerChain("S01", (50, 30, 20, 10)),
    ViewerChain("S02", (60, 40)),
    ViewerChain("S03", (40, 20, 12)),
    ViewerChain("S04", ()),
)
TEXT = "S01 50 30 20 10\nS02 60 40\nS03 40 20 12\nS04\n"
PLAIN = MclJciSource("ImageJND_SRC01", CHAINS, None)

chains = st.builds(
    lambda subject, values: ViewerChain(f"S{subject}", tuple(sorted(values, reverse=True))),
    st.integers(1, 150),
    st.sets(st.integers(1, 99), max_size=8),
)
panels = st.lists(chains, min_size=1, max_size=30, unique_by=lambda chain: chain.subject)


def file(text, name="JND_image_01.txt"):
    data = text if isinstance(text, bytes) else text.encode()
    return LabelFile(name, f"gs://bucket/{name}", data)


def parse(*files):
    return parse_mcl_jci_labels(files, location="gs://bucket")


def only_source(text):
    (source,) = parse(file(text)).sources
    return source


@given(panels)
def test_written_viewers_parse_unchanged_or_are_a_fault(panel):
    table = parse(file(format_mcl_jci_viewers(panel)))
    assert table.repairs == ()
    if table.faults:
        assert table.sources == ()
        assert " above JND" in table.faults[0].reason
    else:
        assert table.sources == (MclJciSource("ImageJND_SRC01", tuple(panel), None),)


@given(panels)
def test_a_level_by_viewers_is_the_sample_that_a_quarter_has_noticed(panel):
    source = MclJciSource("ImageJND_SRC01", tuple(panel), None)
    assert len(source.chains) == len(panel)
    for level, samples in zip(source.levels("viewers"), source.samples, strict=True):
        if len(samples) < 2:
            assert math.isnan(level)
        else:
            assert level in samples
            # Counted in integers: a quarter at the level, less at any higher one.
            assert 4 * sum(sample >= level for sample in samples) >= len(samples)
            assert 4 * sum(sample > level for sample in samples) < len(samples)


def test_missing_levels_are_absent_from_the_samples():
    source = only_source(TEXT)
    assert source == PLAIN
    assert source.samples == ((50, 60, 40), (30, 40, 20), (20, 12))
    assert len(source.chains) == 4
    # One of three and one of two are at least a quarter.
    assert source.levels("viewers") == (60, 40, 20)


def test_a_level_of_one_viewer_is_missing():
    levels = only_source("S01 50 30 20\nS02 60 40\n").levels("viewers")
    assert levels[:2] == (60, 40)
    assert math.isnan(levels[2])


@pytest.mark.parametrize(
    ("text", "stairs", "levels"),
    [
        ("100 45 30 22 15\n1 2 3 4 5\n", (45, 30, 22, 15), (45, 30, 22)),
        ("15,22,30,45,100\r\n.1,.2,.3,.4,.5", (45, 30, 22, 15), (45, 30, 22)),
        ("45; 30\n1; 2\n", (45, 30), (45, 30, math.nan)),
        ("100\n1", (), (math.nan,) * 3),
    ],
)
def test_levels_by_stairs_are_the_first_below_one_hundred(text, stairs, levels):
    table = parse(file(TEXT), file(text, "Image_1_l_h.txt"))
    (source,) = table.sources
    assert source.stairs == stairs
    assert source.levels("stairs") == pytest.approx(levels, nan_ok=True)
    assert source.chains == CHAINS
    assert table.repairs == ()


def test_without_stairs_all_levels_by_stairs_are_missing():
    assert all(map(math.isnan, PLAIN.levels("stairs")))


@pytest.mark.parametrize(
    ("text", "stairs", "repair"),
    [
        ("45 30\n1\n", (45, 30), "2 quality factors, 1 heights; kept"),
        ("45 30 30 0\n1 2 3 4\n", (45, 30), "0 for a missing quality factor; dropped"),
        ("45 30 30\n1 2 3\n", (45, 30), "a quality factor twice in succession; counted once"),
        ("0 30 45\n1 2 3\n", (45, 30), "0 for a missing quality factor; dropped"),
        ("45 30 40\n1 2 3", None, "quality factor 40 after 30, not below it; these stairs are"),
        ("450 30\n1 2", None, "quality factor 450 outside 1 to 100; these stairs are ignored"),
        ("", None, "no quality factors; these stairs are ignored"),
    ],
)
def test_stairs_are_repaired_or_ignored_and_listed(text, stairs, repair):
    table = parse(file(TEXT), file(text, "Image_1_l_h.txt"))
    assert table.sources[0].stairs == stairs
    assert any(f"Image_1_l_h.txt, line 1: {repair}" in line for line in table.repairs)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        TEXT.replace("\n", "\n\n"),
        "\ufeff" + TEXT,
        TEXT.replace(" ", "\t"),
        TEXT.replace(" ", ", "),
        TEXT.replace(" ", ";"),
        TEXT.replace("\n", " , \n"),
        TEXT.replace(" 50", "   50.0"),
        TEXT.removesuffix("\n"),
    ],
)
def test_known_text_forms_are_accepted(text):
    table = parse(file(text))
    assert table.sources == (PLAIN,)
    assert table.repairs == ()


@pytest.mark.parametrize(
    ("old", "new", "repair"),
    [
        ("60 40", "60 40 0 0", "line 2: 0 for a missing quality factor; dropped"),
        ("S04", "S04 0 0", "line 4: 0 for a missing quality factor; dropped"),
        ("60 40", "60 60 40", "line 2: a quality factor twice in succession; counted once"),
        ("S04", "S02 60 40\nS04", "line 4: viewer S02 again, with equal levels; ignored"),
    ],
)
def test_repairs_are_listed(old, new, repair):
    table = parse(file(TEXT.replace(old, new)))
    assert table.sources == (PLAIN,)
    assert table.repairs == (f"JND_image_01.txt, {repair}",)


def test_a_repeated_viewer_with_other_levels_is_kept_and_listed():
    table = parse(file(TEXT.replace("S03", "S02")))
    assert [chain.quality_factors for chain in table.sources[0].chains] == [
        chain.quality_factors for chain in CHAINS
    ]
    assert table.repairs == ("JND_image_01.txt, line 3: viewer S02 again, with other levels; kept",)


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("60 40", "100 40", 2, "viewer S02: quality factor 100 outside 1 to 99"),
        ("60 40", "60 -4", 2, "viewer S02: quality factor -4 outside 1 to 99"),
        ("60 40", "60 70", 2, "viewer S02: quality factor 70 after 60, not below it"),
        ("60 40", "0 40", 2, "viewer S02: quality factor 0 outside 1 to 99"),
        ("60 40", ",,40", 2, "viewer S02: quality factor 0 outside 1 to 99"),
        ("S03", "", 3, "viewers S01 and 40: one of them is not a name"),
        (
            "40 20 12\nS04",
            "40 120 12\nS04 7 8",
            3,
            "viewer S03: quality factor 120 outside 1 to 99; and 1 more",
        ),
    ],
)
def test_impossible_levels_are_a_fault(old, new, line, reason):
    other = file(TEXT, "JND_image_02.txt")
    table = parse(file(TEXT.replace(old, new)), other)
    assert [source.source_id for source in table.sources] == ["ImageJND_SRC02"]
    location = f"JND_image_01.txt, line {line}"
    assert table.faults == (LabelFault("ImageJND_SRC01", location, reason),)


def test_levels_may_rise_if_viewers_lack_one():
    # JND1: the second highest of seven answers, 20. JND2: the higher of two, 80. Whether such a
    # source is usable depends on the convention, so the caller decides.
    text = "".join(f"S{i} 20\n" for i in range(5)) + "S5 20 10\nS6 90 80\n"
    (source,) = parse(file(text)).sources
    assert source.levels("viewers")[:2] == (20, 80)


@pytest.mark.parametrize("text", ["", "\n \r\n", " ;, \n"])
def test_a_text_without_viewers_is_a_fault(text):
    table = parse(file(text), file(TEXT, "JND_image_02.txt"))
    assert table.faults == (
        LabelFault("ImageJND_SRC01", "JND_image_01.txt", "no viewer in JND_image_01.txt"),
    )


def test_stairs_without_viewers_are_a_fault():
    table = parse(file(TEXT), file("45 30\n1 2\n", "Image_7_l_h.txt"))
    assert table.sources == (PLAIN,)
    assert table.faults == (
        LabelFault("ImageJND_SRC07", "JND_image_07.txt", "no JND_image_07.txt"),
    )


@pytest.mark.parametrize(
    ("text", "line", "got"),
    [
        (TEXT.replace("60 40", "60 4O"), 2, "'4O'"),
        (TEXT.replace("60 40", "60 40.5"), 2, "'40.5'"),
        (f"\n{TEXT.replace('12', 'twelve')}", 4, "'twelve'"),
        (TEXT.replace("S03", ",S03"), 3, "an empty cell"),
        (TEXT.replace("S03", "S\x0003"), 3, r"'S\x0003'"),
        (TEXT.encode() + "S05 \xe4".encode("latin-1"), 5, "can't decode byte 0xe4"),
    ],
)
def test_unreadable_cells_are_an_error_with_the_line(text, line, got):
    with pytest.raises(LabelFileError) as caught:
        parse(file(text))
    assert (caught.value.file, caught.value.line) == ("JND_image_01.txt", line)
    assert got in caught.value.problem


def test_unreadable_stairs_are_an_error():
    with pytest.raises(LabelFileError, match="Image_1_l_h.txt, line 1: 'x' is not an integer"):
        parse(file(TEXT), file("45 x\n1 2", "Image_1_l_h.txt"))


def test_equal_copies_count_once_and_different_ones_are_an_error():
    copy = LabelFile("JND_image_1.txt", "gs://bucket/copy/JND_image_1.txt", TEXT.encode())
    table = parse(file(TEXT), copy)
    assert table.sources == (PLAIN,)
    assert table.repairs == (
        "JND_image_01.txt: second copy gs://bucket/copy/JND_image_1.txt; ignored",
    )
    with pytest.raises(LabelFileError, match="differ"):
        parse(file(TEXT + "S05 1"), copy)


def test_missing_viewers_texts_are_a_user_error():
    with pytest.raises(UserError, match=r"gs://bucket has no label file of MCL-JCI"):
        parse(file("45 30\n1 2", "Image_1_l_h.txt"), file(TEXT, "notes.txt"))


def test_texts_are_found_anywhere_below_a_folder(tmp_path):
    for name, text in [
        ("JND_samples/JND_image_02.txt", TEXT),
        ("JND_samples/JND_image_01.txt", TEXT),
        ("SQF_data [old]/Image_1_l_h.txt", "45 30\n1 2"),
        (".trash/JND_image_03.txt", TEXT),
        ("JND_samples/README.txt", "unrelated"),
    ]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    sources = read_mcl_jci_labels(tmp_path).sources
    assert [(s.source_id, s.stairs) for s in sources] == [
        ("ImageJND_SRC01", (45, 30)),
        ("ImageJND_SRC02", None),
    ]
    with pytest.raises(UserError, match="does not exist|is a file"):
        read_mcl_jci_labels(tmp_path / "nowhere")
