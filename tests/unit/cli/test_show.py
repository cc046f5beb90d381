"""Progress and tables."""

import io
import re
import sys

import pytest
from rich.cells import cell_len

from tailguard.cli.show import print_table, progress_bars

HEADINGS = ("reward", "mean cost", "CVaR.1", "CVaR.05", "unsafe rate", "tokens per answer")
NAMES = {
    "short": ["base", "cvar-10", "cvar-10+guided ≤-0.68"],
    "long": ["base", "a careful policy, long trained", "cvar-10 trained twice+guided ≤-0.68"],
    "very long": ["base", "p" * 130, "cvar-10 guided at 0.7 of the way " * 6 + "end"],
    "wide letters": ["base", "方" * 20, "[bold]not markup[/bold]"],
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """The lines of a table on a terminal of some width."""

    def show(rows, width, title=""):
        screen = Terminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", screen)
        print_table(rows, title)
        return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()

    return show


def table_of(names):
    numbers = "-0.24 [-0.29, -0.17]"
    return [
        {"policy": name} | dict.fromkeys(HEADINGS, f"{k}{numbers}") for k, name in enumerate(names)
    ]


def cells_of(lines):
    """Column by column what a printed table says, without borders, lines and blanks."""
    split = [re.split("[│┃]", line)[1:-1] for line in lines if re.match("[│┃]", line)]
    first = "".join("".join(cells[0].split()) for cells in split)
    others = [" ".join(cell.split()) for cells in split for cell in cells[1:]]
    return first, others


def test_progress_without_a_terminal_is_a_line_at_each_tenth(capsys):
    with progress_bars() as bars:
        for done in range(101):
            bars("sampling", done, 100)
        bars("nothing", 0, 0)
        bars.line("over")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"  sampling: {10 * k}/100" for k in range(1, 11)] + ["over"]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 250])
@pytest.mark.parametrize("names", NAMES.values(), ids=list(NAMES))
def test_a_terminal_of_any_width_shows_every_name_and_value_whole(shown, names, width):
    rows = table_of(names)
    lines = shown(rows, width, title="run")
    assert all(cell_len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    first, others = cells_of(lines)
    for name in names:
        assert "".join(name.split()) in first
    for row in rows:
        assert {row[heading] for heading in HEADINGS} <= set(others)
    assert {word for heading in HEADINGS for word in heading.split()} <= set(
        " ".join(others).split()
    )
    assert [line.strip() for line in lines].count("run") == 1


def test_a_table_that_fits_is_not_broken(shown):
    rows = [{"policy": "base", "cost": 1.25}, {"policy": "cvar", "cost": 2}]
    wide, narrow = shown(rows, 100), shown(rows, 17)
    assert wide == narrow
    assert shown([{"policy": "alone"}], 100)[3] == "│ alone  │"


def test_a_wide_table_is_continued_below_with_its_names(shown):
    lines = shown(table_of(NAMES["short"]), 80)
    headings = [line for line in lines if "policy" in line]
    assert [[h for h in HEADINGS if h in line] for line in headings] == [
        ["reward", "mean cost"],
        ["CVaR.1", "CVaR.05"],
        ["unsafe rate", "tokens per answer"],
    ]
    assert sum("cvar-10+guided ≤-0.68" in line for line in lines) == 3


def test_headings_are_broken_before_the_table_is(shown):
    rows = [{"policy": "base", "mean cost": "0.5", "tokens per answer": "12"}]
    lines = shown(rows, 30)
    assert len(lines) == 4 + 3  # rules, a row, and three lines of headings
    first, others = cells_of(lines)
    assert first == "policybase"
    assert others == ["", "tokens", "mean", "per", "cost", "answer", "0.5", "12"]


@pytest.mark.parametrize("names", NAMES.values(), ids=list(NAMES))
def test_a_file_has_a_line_for_each_row(capsys, names):
    print_table(table_of(names))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names) + 4  # three rules and the headings
    assert all(any(name in line for line in lines) for name in names)


def test_tables_show_every_value_whole(capsys):
    long = "cvar-10 guided at 0.7 of the way " * 8
    print_table([{"policy": long, "cost": 1.25}, {"policy": "base", "cost": 2}], title="run")
    out = capsys.readouterr().out
    assert long.strip() in out
    assert "1.25" in out
    assert out.index("policy") < out.index("cost")
