"""The table of policies × metrics: for the terminal, Markdown and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tailguard.evaluation.intervals import Interval
from tailguard.evaluation.metrics import TABLE_METRICS
from tailguard.evaluation.record import MetricsKey, Row, interval_of, to_number

NOTHING = "–"
TOKENS_HEADING = "tokens per answer"


class Cell(NamedTuple):
    """A number and its interval as text; the interval may be empty."""

    estimate: str
    interval: str

    def __str__(self) -> str:
        return f"{self.estimate} {self.interval}".rstrip()


def table_rows(rows: Sequence[Row], *, metrics: MetricsKey = "metrics") -> list[dict[str, str]]:
    """One line per policy or decoder: heading → ``estimate [lower, upper]``.

    Two decimals, or as many more as show the interval's width; rates as per cent with one.

    Args:
        rows: of an evaluation record; what is missing is shown as a dash.
        metrics: by the judge, or ``scorer_metrics`` for those by the training scorers.
    """
    return [
        {"policy": str(row["name"])}
        | {heading: str(cell) for heading, cell in table_cells(row, metrics=metrics).items()}
        for row in rows
    ]


def table_cells(row: Row, *, metrics: MetricsKey = "metrics") -> dict[str, Cell]:
    """The cells of one row by heading, without its name."""
    cells = {
        metric.heading: format_interval(
            interval_of(row, metric.key, metrics), is_rate=metric.is_rate
        )
        for metric in TABLE_METRICS
    }
    tokens = to_number(row.get("tokens_per_answer"))
    cells[TOKENS_HEADING] = Cell(_decimal(tokens, 0 if abs(tokens) >= 100 else 1), "")
    return cells


def format_interval(interval: Interval | None, *, is_rate: bool = False) -> Cell:
    """An estimate and its interval as text; rates as per cent."""
    if interval is None:
        return Cell(NOTHING, "")
    scale = 100.0 if is_rate else 1.0
    lower, upper = interval.lower * scale, interval.upper * scale
    # The width decides the decimals: digits that the interval leaves open are noise.
    places = _places(upper - lower, usual=1 if is_rate else 2)
    ends = f"[{_decimal(lower, places)}, {_decimal(upper, places)}]"
    # A rate or mean that was recorded without its ends is shown without them.
    known = not (math.isnan(lower) and math.isnan(upper))
    estimate = _decimal(interval.estimate * scale, places)
    return Cell(estimate + ("%" if is_rate else ""), ends if known else "")


def markdown_table(lines: Sequence[Mapping[str, str]]) -> str:
    """Lines of the same headings as a Markdown table; the first column left, the others right."""
    if not lines:
        return ""
    headings = list(lines[0])
    rule = [":---", *("---:" for _ in headings[1:])]
    body = [[line[heading] for heading in headings] for line in lines]
    return "".join(f"| {' | '.join(map(_escape, cells))} |\n" for cells in (headings, rule, *body))


def _places(width: float, usual: int) -> int:
    """Decimals: the usual number, more for a narrow interval and none for a very wide one."""
    if not math.isfinite(width) or width <= 0:
        return usual
    if width >= 100:
        return 0
    return max(usual, min(-math.floor(math.log10(width)), 6))


def _decimal(value: float, places: int) -> str:
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{round(value, places) + 0.0:.{places}f}"  # adding 0 turns -0 into 0


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
