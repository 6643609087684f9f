"""How commands write to the terminal: results, tables and progress."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Protocol

from laser_dist.wording import printable, time_text

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 76  # columns
SECONDS_BETWEEN_LINES = 15.0  # of progress, where standard error is not a terminal

logger = logging.getLogger(__name__)
_shown = True


class Show(Protocol):
    """Shows what is being done, and how much of it is done if a total is given."""

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Replace the text and the numbers shown."""


def show_progress(enabled: bool) -> None:
    """Turn progress bars on or off."""
    global _shown
    _shown = enabled


@cache
def error_console() -> Console:
    """Return the console of standard error, which messages and progress share."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


class Terminal:
    """Writes results to standard output and progress to standard error."""

    def __init__(self, file: IO[str] | None = None) -> None:
        """Take the stream for results; None for standard output."""
        from rich.console import Console

        self._console = Console(file=file, highlight=False, markup=False, emoji=False)

    @property
    def is_live(self) -> bool:
        """Whether progress can be shown in place: on a terminal, not in a file or a pipe."""
        console = error_console()
        return console.is_terminal and not console.is_dumb_terminal

    @property
    def width(self) -> int:
        """Width of the output in columns."""
        return self._console.width

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """Print a line without breaking it, as it may hold a long path."""
        self._console.print(printable(text), soft_wrap=True, style=style)

    def say_json(self, value: Any) -> None:
        """Print a JSON document on several lines."""
        for line in json.dumps(value, indent=2, allow_nan=False).split("\n"):
            self.say(line)

    def pairs(self, pairs: Sequence[tuple[str, str | list[str]]]) -> None:
        """Print names and values in two columns; a value may be a list of lines."""
        widest = max(len(name) for name, _ in pairs)
        for name, value in pairs:
            first, *others = [value] if isinstance(value, str) else value
            self.say(f"  {name:<{widest}}  {first}")
            for line in others:
                self.say(line)

    def table(self, header: Sequence[str], sections: Sequence[Sequence[Sequence[str]]]) -> None:
        """Print a table, its first column aligned to the left and the others to the right.

        Args:
          header: a title for each column.
          sections: groups of rows, separated by a line. Any cell but the first of a row may have
            several lines.
        """
        from rich import box
        from rich.table import Table

        gap = 1 if self.width >= WIDE else 0  # in addition to the column that the box draws
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, gap, 0, gap), pad_edge=False, show_edge=False
        )
        for index, title in enumerate(header):
            table.add_column(title, justify="right" if index else "left", overflow="fold")
        for section in sections:
            for row in section:
                first, *others = row
                lines = ("\n".join(map(printable, each.split("\n"))) for each in others)
                table.add_row(printable(first), *lines)
            table.add_section()
        self._console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Show]:
        """Give a function that shows what is being done until the block ends.

        On a terminal it replaces what it showed before, and log messages appear above it. Elsewhere
        it logs a line now and then.
        """
        if not self.is_live or not _shown:
            yield _log_now_and_then()
            return
        from rich import progress
        from rich.table import Column

        columns = (
            progress.SpinnerColumn(),
            progress.TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            progress.TextColumn("{task.fields[count]}"),
            progress.TimeRemainingColumn(),
        )
        bar = progress.Progress(
            *columns,
            console=error_console(),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with bar:
            task = bar.add_task("", total=None, count="")

            def show(text: str, done: float | None = None, total: float | None = None) -> None:
                count = "" if done is None else f"{done:g}/{total:g}"
                bar.update(
                    task,
                    description=printable(text),
                    completed=done or 0,
                    total=total,
                    count=count,
                )

            yield show


def _log_now_and_then() -> Show:
    """Return a function that logs progress, but not more often than is readable in a file."""
    last, before = time.monotonic(), ""
    begun, at, before_done = last, 0.0, math.inf  # of what is done now: its start, and how far

    def show(text: str, done: float | None = None, total: float | None = None) -> None:
        nonlocal last, before, begun, at, before_done
        now, line = time.monotonic(), text
        if done is None or total is None:
            before_done = math.inf
        else:
            if done < before_done:
                begun, at = now, done
            before_done = done
            line = f"{text}  {done:g}/{total:g}"
            if done > at:
                left = (total - done) * (now - begun) / (done - at)
                line += f", {time_text(left)} left"
        if line != before and now - last >= SECONDS_BETWEEN_LINES:
            last, before = now, line
            logger.info("  %s", line)

    return show
