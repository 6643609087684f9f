import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.commands.faults import Explanation
from laser_dist.commands.terminal import Terminal
from laser_dist.wording import (
    count_text,
    figure_text,
    interval_text,
    notes,
    printable,
    size_text,
    time_text,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (12.4, "12 s"),
        (59.7, "1 min 00 s"),
        (80, "1 min 20 s"),
        (3599.8, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_time(seconds, text):
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(999, "999 bytes"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (3.2e9, "3.2 GB")],
)
def test_size(num_bytes, text):
    assert size_text(num_bytes) == text


def test_figures():
    assert count_text(1, "clip") == "1 clip"
    assert count_text(0, "clip") == "0 clips"
    assert interval_text(2.314, (1.951, 2.7)) == "2.31 (1.95–2.70)"
    assert figure_text(2.31449) == "2.314"
    assert figure_text(9597.2) == "9597"


@given(st.floats(min_value=0, max_value=1e9))
def test_a_figure_keeps_three_digits_and_stays_short(value):
    text = figure_text(value)
    assert len(text) <= 10
    assert float(text) == pytest.approx(value, rel=1e-3, abs=1e-9)


def test_notes_are_counted_and_the_first_ones_shown():
    assert notes([]) == ["none"]
    assert [line.strip() for line in notes(["a"])] == ["1", "a"]
    shown = [line.strip() for line in notes(str(n) for n in range(9))]
    assert shown == ["9", "0", "1", "2", "3", "4", "…"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("clip é 画.mp4", "clip é 画.mp4"),
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("a\x9b31mred\x7f\r\b\a", r"a\x9b31mred\x7f\r\x08\x07"),
        # Shown in another order than it is: "gpj.exe" looks like "exe.jpg".
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        # A byte of a file name that is not UTF-8.
        ("a\udcff.mp4", r"a\udcff.mp4"),
        ("two\nlines", r"two\nlines"),
    ],
)
def test_control_characters_are_escaped(name, shown):
    assert printable(name) == shown
    assert str(Explanation(2, name, name)) == f"error: {shown}\nhint: {shown}"
    for write in (
        lambda terminal: terminal.say(name),
        lambda terminal: terminal.pairs([("clip", name)]),
        lambda terminal: terminal.table(["clip"], [[[name]]]),
    ):
        file = io.StringIO()
        write(Terminal(file))
        assert all(part in file.getvalue() for part in shown.split("\n"))
