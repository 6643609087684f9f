"""Figures as people read them."""

import math
import time
from collections.abc import Callable, Iterable, Sequence

SHOWN_NOTES = 5
NO_VALUE = "–"


def time_text(seconds: float) -> str:
    """Such as "0.4 s", "12 s", "1 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(num_bytes: float) -> str:
    """Such as "12.3 MB", in powers of 1000."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def count_text(count: int, noun: str) -> str:
    """Such as "1 clip", "12 clips"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number_text(value: float, unit: str = "") -> str:
    """Such as "2.31 dB"; a dash where there is no value."""
    return f"{value:.2f}{unit}" if math.isfinite(value) else NO_VALUE


def share_text(share: float) -> str:
    """Such as "81.2 %"; a dash where there is no value."""
    return f"{share * 100:.1f} %" if math.isfinite(share) else NO_VALUE


def interval_text(value: float, interval: Sequence[float]) -> str:
    """Such as "2.31 (1.95–2.70)"; a dash where there is no value."""
    if not math.isfinite(value):
        return NO_VALUE
    low, high = interval
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def share_interval_text(share: float, interval: Sequence[float]) -> str:
    """Such as "3.1 % (2.6–3.7)"; a dash where there is no value."""
    if not math.isfinite(share):
        return NO_VALUE
    low, high = interval
    return f"{share_text(share)} ({low * 100:.1f}–{high * 100:.1f})"


def figure_text(value: float) -> str:
    """Such as "2.314", "9597": four digits or more, whole above 1000."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def counting(show: Callable[[str], None], noun: str) -> Callable[[int, int], None]:
    """A function of (done, total) that shows them, and the time left by the pace so far.

    Args:
      show: shows a line.
      noun: what is counted, in the plural.
    """
    started = time.monotonic()
    first: list[int] = []

    def report(done: int, total: int) -> None:
        # What was there when this began tells nothing of the pace.
        first.append(done - 1)
        pace = (time.monotonic() - started) / (done - first[0])
        show(f"{noun}  {done}/{total}  {time_text(pace * (total - done))} left")

    return report


def notes(lines: Iterable[str]) -> str:
    """A count and the first few lines, or "none"."""
    lines = list(lines)
    if not lines:
        return "none"
    shown = [*lines[:SHOWN_NOTES], *(["…"] if len(lines) > SHOWN_NOTES else [])]
    return "\n    ".join([str(len(lines)), *shown])
