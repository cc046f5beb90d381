"""Progress bars and tables."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
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
from rich.text import Text

_WIDEST = 1000  # in a file no cell need be broken; a table takes only what it needs
_CELL_FRAME = 3  # a border and a blank on each side of a cell


@contextmanager
def progress_bars() -> Generator[Bars]:
    """Bars on standard error while the block runs; plain lines where that is not a terminal."""
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


def print_table(rows: Sequence[Mapping[str, object]], title: str = "") -> None:
    """Rows of the same keys as a table on standard output; no value is cut short.

    Where a terminal is too narrow for all columns, headings are broken into lines; if that is not
    enough, the table is continued below, with the first column again at the left. Only a first
    column that leaves no room for another is wrapped.
    """
    console = Console(width=None if sys.stdout.isatty() else _WIDEST)
    cells = {name: [str(row[name]) for row in rows] for name in rows[0]}
    headings = {name: name for name in cells}
    if len(_blocks(_widths(headings, cells), console.width)) > 1:
        headings = {name: _narrow(name, texts) for name, texts in cells.items()}
    first = next(iter(cells))
    for place, block in enumerate(_blocks(_widths(headings, cells), console.width)):
        table = Table(title=(title or None) if place == 0 else None)
        for name in (first, *block):
            # By default rich cuts a word that is too long and puts an ellipsis at its end.
            side = "left" if name == first else "right"
            table.add_column(headings[name], justify=side, overflow="fold", no_wrap=name != first)
        for line in zip(*(cells[name] for name in (first, *block)), strict=True):
            table.add_row(*(Text(cell) for cell in line))  # a name in brackets is no markup
        console.print(table)


def _narrow(heading: str, cells: Sequence[str]) -> str:
    """The heading over several lines, no wider than the cells below it or its longest word."""
    return textwrap.fill(heading, max(map(len, (*cells, *heading.split()))))


def _widths(headings: Mapping[str, str], cells: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Characters that each column takes when nothing in it is wrapped."""
    return {
        name: max(cell_len(text) for text in (*headings[name].splitlines(), *cells[name]))
        for name in headings
    }


def _blocks(widths: Mapping[str, int], width: int) -> list[list[str]]:
    """The columns after the first, in groups that fit beside it on lines of this width."""
    first, *others = widths
    if not others:
        return [[]]
    inside = width - 1  # the last border
    # The first column gives way to the widest of the others.
    beside_widest = inside - 2 * _CELL_FRAME - max(widths[name] for name in others)
    room = inside - _CELL_FRAME - min(widths[first], max(1, beside_widest))
    blocks: list[list[str]] = []
    left = 0
    for name in others:
        needed = widths[name] + _CELL_FRAME
        if not blocks or needed > left:
            blocks.append([])
            left = room
        blocks[-1].append(name)
        left -= needed
    return blocks
