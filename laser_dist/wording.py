"""Numbers and names as text for people."""

import math
from collections.abc import Iterable, Sequence

SHOWN_NOTES = 5
NO_VALUE = "–"


def printable(text: str) -> str:
    """Return a text with its control characters escaped, line ends too.

    Names of files and sources are not trusted, and a terminal would obey them. A name with a line
    end could look like a message.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def time_text(seconds: float) -> str:
    """Return a duration such as "0.4 s", "12 s", "1 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(num_bytes: float) -> str:
    """Return a size such as "12.3 MB", in powers of 1000."""
    from rich.filesize import decimal

    return decimal(round(num_bytes))


def count_text(count: int, noun: str) -> str:
    """Return a count such as "1 clip", "12 clips"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number_text(value: float, unit: str = "") -> str:
    """Return a number such as "2.31 dB"; a dash if it is not finite."""
    return f"{value:.2f}{unit}" if math.isfinite(value) else NO_VALUE


def share_text(share: float) -> str:
    """Return a percentage such as "81.2%"; a dash if it is not finite."""
    return f"{share * 100:.1f}%" if math.isfinite(share) else NO_VALUE


def interval_text(value: float, interval: Sequence[float]) -> str:
    """Return a value with its interval, "2.31 (1.95–2.70)"; a dash if it is not finite."""
    if not math.isfinite(value):
        return NO_VALUE
    # The intervals of one group do not exist.
    bounds = (f"{bound:.2f}" if math.isfinite(bound) else NO_VALUE for bound in interval)
    return f"{value:.2f} ({'–'.join(bounds)})"


def figure_text(value: float) -> str:
    """Return a number with four significant digits, such as "2.314", or as "9597" from 1000."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def notes(lines: Iterable[str]) -> list[str]:
    """Return the number of lines and the first few of them, or "none", for `Terminal.pairs`."""
    lines = list(lines)
    if not lines:
        return ["none"]
    shown = [*lines[:SHOWN_NOTES], *(["…"] if len(lines) > SHOWN_NOTES else [])]
    return [str(len(lines)), *(f"    {line}" for line in shown)]
