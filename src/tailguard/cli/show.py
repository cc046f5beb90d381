"""Progress bars and tables."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_WIDEST = 1000  # in a file no cell need be broken; a table takes only what it needs


@contextmanager
def progress_bars() -> Generator[Bars]:
    """Bars on standard error while the block runs; plain lines where it is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bars(None)
        return
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)


class Bars:
    """Progress shown as bars, or as a line at each tenth."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of ``what`` are over."""
        if self._progress is None:
            tenth = 10 * done // max(total, 1)
            if tenth > self._tenths.get(what, 0):
                self._tenths[what] = tenth
                self.line(f"  {what}: {done}/{total}")
            return
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(what))

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._progress is None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        else:
            self._progress.console.print(text, highlight=False)


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Rows of the same keys as a table on standard output."""
    table = Table(title=title or None)
    for name in rows[0]:
        table.add_column(name, justify="left" if name == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    width = None if sys.stdout.isatty() else _WIDEST
    Console(width=width).print(table)
