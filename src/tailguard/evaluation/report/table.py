"""The table of policies × metrics: for the terminal, Markdown and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NOTHING = "–"


class Column(NamedTuple):
    """A column of the table: its heading, the metric's key, and whether it is a share."""

    heading: str
    key: str
    is_rate: bool = False


METRIC_COLUMNS = (
    Column("reward", "reward"),
    Column("mean cost", "cost"),
    Column("CVaR.1", "cvar_0.1"),
    Column("CVaR.05", "cvar_0.05"),
    Column("unsafe rate", "unsafe_rate", is_rate=True),
    Column("refusals on benign", "benign_refusals", is_rate=True),
)
TOKENS_HEADING = "tokens an answer"


class Cell(NamedTuple):
    """A number and its interval as text; the interval may be empty."""

    estimate: str
    interval: str

    def __str__(self) -> str:
        return f"{self.estimate} {self.interval}".rstrip()


def table_rows(
    rows: Sequence[Mapping[str, Any]], *, metrics: str = "metrics"
) -> list[dict[str, str]]:
    """One line a policy or decoder: heading → ``estimate [lower, upper]``.

    Two decimals, or as many more as show the interval's width; rates as per cent with one.

    Args:
        rows: of an evaluation record: ``name``, ``tokens_per_answer`` and, under ``metrics``,
            metric key → estimate, lower and upper. What is missing is shown as a dash.
        metrics: the key that the metrics stand under; ``scorer_metrics`` for the training scorers.
    """
    return [
        {"policy": str(row["name"])}
        | {heading: str(cell) for heading, cell in table_cells(row, metrics=metrics).items()}
        for row in rows
    ]


def table_cells(row: Mapping[str, Any], *, metrics: str = "metrics") -> dict[str, Cell]:
    """The cells of one row by heading, without its name."""
    cells = {
        column.heading: format_interval(metric_of(row, column.key, metrics), is_rate=column.is_rate)
        for column in METRIC_COLUMNS
    }
    tokens = to_number(row.get("tokens_per_answer"))
    cells[TOKENS_HEADING] = Cell(_decimal(tokens, 0 if abs(tokens) >= 100 else 1), "")
    return cells


def format_interval(value: Any, *, is_rate: bool = False) -> Cell:
    """An estimate and its interval as text; rates as per cent."""
    if value is None:
        return Cell(NOTHING, "")
    estimate, lower, upper = (to_number(value.get(k)) for k in ("estimate", "lower", "upper"))
    scale = 100.0 if is_rate else 1.0
    estimate, lower, upper = estimate * scale, lower * scale, upper * scale
    places = _places(upper - lower, usual=1 if is_rate else 2)
    ends = f"[{_decimal(lower, places)}, {_decimal(upper, places)}]"
    known = not (math.isnan(lower) and math.isnan(upper))
    return Cell(_decimal(estimate, places) + ("%" if is_rate else ""), ends if known else "")


def markdown_table(lines: Sequence[Mapping[str, str]]) -> str:
    """Lines of the same headings as a Markdown table; the first column left, the others right."""
    if not lines:
        return ""
    headings = list(lines[0])
    rule = [":---", *("---:" for _ in headings[1:])]
    body = [[line[heading] for heading in headings] for line in lines]
    return "".join(f"| {' | '.join(map(_escape, cells))} |\n" for cells in (headings, rule, *body))


def metric_of(row: Mapping[str, Any], key: str, metrics: str = "metrics") -> Any:
    """The estimate and interval of one metric of a row; None where the row has none."""
    found: Mapping[str, Any] = row.get(metrics) or {}
    return found.get(key)


def to_number(value: Any) -> float:
    """A float from what JSON may hold for one: ``"inf"`` and None (NaN) too."""
    return math.nan if value is None else float(value)


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
