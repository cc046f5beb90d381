"""An evaluation record as a page that needs nothing else, with its figures and its numbers."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import cast

import jinja2

from tailguard.artifacts import Json, write_json
from tailguard.evaluation.metrics import TABLE_METRICS
from tailguard.evaluation.record import Record, Row
from tailguard.evaluation.report.dial_part import (
    certificate_table,
    dial_findings,
    rater_table,
    verdict,
)
from tailguard.evaluation.report.figures import Drawn, draw_figures
from tailguard.evaluation.report.findings import find_all
from tailguard.evaluation.report.table import NOTHING, TOKENS_HEADING, Cell, table_cells

REPORT_NAME = "report.html"
NUMBERS_NAME = "report.json"
_TEMPLATE_NAME = "report.html.jinja"
_MARKS = {"good": "Better", "bad": "Worse", "open": "Open", "note": "Note"}


def write_report(record: Record, directory: Path) -> Path:
    """Write ``report.html``, ``report.json`` and the figures as PNG; returns the page's path.

    The page holds its figures and loads nothing. All text of the record is escaped. The JSON is
    the record, with ``findings`` added: the sentences that its intervals support.

    Args:
        record: any part of it may be missing.
        directory: made if it is not there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows = record.get("rows") or ()
    judge = record.get("judge") or {}
    in_units = bool(judge.get("in_scorer_units"))
    findings = [*dial_findings(rows), *find_all(rows, judge_in_scorer_units=in_units)]
    certificates = certificate_table(record.get("certificates") or ())
    figures = draw_figures(record)
    for figure in figures:
        (directory / f"{figure.name}.png").write_bytes(figure.png)
    said = {"verdict": verdict(record), "findings": [asdict(f) for f in findings]}
    write_json(directory / NUMBERS_NAME, {**record, **said})
    page = _template().render(
        title=record.get("title") or "Evaluation",
        judge=judge.get("name") or "an independent judge",
        num_prompts=record.get("num_prompts"),
        headings=[metric.heading for metric in TABLE_METRICS] + [TOKENS_HEADING],
        rows=rows,
        tables=_tables(rows),
        verdict=said["verdict"],
        findings=findings,
        marks=_MARKS,
        figures=[(figure, _data_address(figure)) for figure in figures],
        examples=record.get("examples") or (),
        certificates=certificates,
        groups=rater_table(rows),
        disagreements=record.get("disagreements") or (),
        facts={
            # Headings, in the page's order; an empty table has none.
            "Policies and points": dict(_flatten(record.get("regret") or {})),
            "Settings": dict(_flatten(record.get("settings") or {})),
        },
    )
    path = directory / REPORT_NAME
    path.write_text(page, encoding="utf-8")
    return path


def _template() -> jinja2.Template:
    # Answers are unedited and may hold markup: everything is escaped, and a name that the template
    # misspells is an error rather than an empty cell.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _shown
    source = (files("tailguard.evaluation.report") / _TEMPLATE_NAME).read_text(encoding="utf-8")
    return environment.from_string(source)


def _tables(rows: Sequence[Row]) -> list[tuple[str, list[tuple[Row, list[Cell]]]]]:
    """By whom, and for each row its cells; the training scorers' only where there are any."""
    judged = [(row, list(table_cells(row).values())) for row in rows]
    tables = [("judge", judged)]
    if any(row.get("scorer_metrics") for row in rows):
        scored = [(row, list(table_cells(row, metrics="scorer_metrics").values())) for row in rows]
        tables.append(("scorers", scored))
    return tables


def _data_address(figure: Drawn) -> str:
    return "data:image/png;base64," + base64.b64encode(figure.png).decode("ascii")


def _flatten(value: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and text of everything in nested mappings."""
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            yield from _flatten(cast("Mapping[str, Json]", part), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _shown(part)


def _shown(value: Json) -> str:
    """A value as text: numbers to four digits, no None."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):  # before numbers: True is an int to Python
        return "yes" if value else "no"
    if isinstance(value, float):
        return "∞" if value == float("inf") else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, cast("Sequence[Json]", value))) or NOTHING
    return "∞" if value == "inf" else str(value)
