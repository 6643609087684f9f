"""How commands speak to the user: lines, tables, and one live line."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

WIDE = 76  # columns


class Terminal:
    """Where a command's own words go."""

    def __init__(self, file: IO[str]) -> None:
        """Takes the stream to write to."""
        from rich.console import Console

        self._console = Console(file=file, highlight=False, markup=False, emoji=False)

    @property
    def is_live(self) -> bool:
        """Whether lines can be rewritten: a terminal, not a file or a pipe."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    @property
    def width(self) -> int:
        """In columns."""
        return self._console.width

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """Prints a line as it is: a path is not broken, however long."""
        self._console.print(text, soft_wrap=True, style=style)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Prints names and values in two columns."""
        widest = max(len(name) for name, _ in facts)
        for name, value in facts:
            self.say(f"  {name:<{widest}}  {value}")

    def table(self, header: Sequence[str], sections: Sequence[Sequence[Sequence[str]]]) -> None:
        """Prints rows below a header, the first column to the left, the others to the right.

        Args:
          header: a title for each column.
          sections: of rows; a line is drawn between two.
        """
        from rich import box
        from rich.table import Table

        gap = 1 if self.width >= WIDE else 0  # beside the one that the box draws
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, gap, 0, gap), pad_edge=False, show_edge=False
        )
        for index, title in enumerate(header):
            table.add_column(title, justify="right" if index else "left", overflow="fold")
        for section in sections:
            for row in section:
                table.add_row(*row)
            table.add_section()
        self._console.print(table)

    @contextmanager
    def live_line(self) -> Iterator[Callable[[str], None]]:
        """Gives a function that shows a line in place of the one before; off a terminal, nothing.

        The line is gone when the block ends. What is printed meanwhile appears above it.
        """
        if not self.is_live:
            yield _ignore
            return
        from rich.live import Live
        from rich.text import Text

        # Not the libraries' words, which rich would gather: they go to the log.
        options: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False}
        with Live(console=self._console, transient=True, refresh_per_second=4, **options) as live:
            yield lambda text: live.update(Text(text, no_wrap=True, overflow="ellipsis"))


def _ignore(_text: str) -> None:
    return
