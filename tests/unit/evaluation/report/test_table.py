"""Intervals as text."""

import math
from typing import Any

import pytest

from tailguard.evaluation.record import interval_of
from tailguard.evaluation.report.table import format_interval, markdown_table, table_rows


def interval(estimate, lower, upper):
    return {"estimate": estimate, "lower": lower, "upper": upper}


@pytest.mark.parametrize(
    ("value", "is_rate", "shown"),
    [
        (interval(1.2345, 1.1, 1.4), False, "1.23 [1.10, 1.40]"),
        (interval(-0.001, -0.2, 0.2), False, "0.00 [-0.20, 0.20]"),
        (interval(0.51234, 0.51222, 0.51249), False, "0.5123 [0.5122, 0.5125]"),
        (interval(1234.5, 1000.2, 1500.7), False, "1234 [1000, 1501]"),
        (interval(0.0412, 0.031, 0.0555), True, "4.1% [3.1, 5.5]"),
        (interval(2.0, 1.0, "inf"), False, "2.00 [1.00, ∞]"),
        (interval(2.0, "-inf", math.inf), False, "2.00 [-∞, ∞]"),
        (interval(2.0, None, None), False, "2.00"),
        (None, False, "–"),
    ],
)
def test_interval(value, is_rate, shown):
    row: Any = {"name": "p", "metrics": {"m": value}}
    assert str(format_interval(interval_of(row, "m"), is_rate=is_rate)) == shown


def test_rows_have_all_columns_in_order_whatever_is_missing():
    rows: Any = [
        {
            "name": "base",
            "metrics": {"reward": interval(1, 0.5, 1.5), "unsafe_rate": interval(0.1, 0.05, 0.2)},
            "scorer_metrics": {"reward": interval(2, 1.5, 2.5)},
            "tokens_per_answer": 24.04,
        },
        {"name": "other", "metrics": {}, "tokens_per_answer": 1234.4},
    ]
    first, second = table_rows(rows)
    assert list(first) == [
        "policy",
        "reward",
        "mean cost",
        "CVaR.1",
        "CVaR.05",
        "unsafe rate",
        "refusals on benign",
        "tokens per answer",
    ]
    assert list(second) == list(first)
    assert first["reward"] == "1.00 [0.50, 1.50]"
    assert first["unsafe rate"] == "10.0% [5.0, 20.0]"
    assert first["mean cost"] == "–"
    assert (first["tokens per answer"], second["tokens per answer"]) == ("24.0", "1234")
    assert table_rows(rows, metrics="scorer_metrics")[0]["reward"] == "2.00 [1.50, 2.50]"


def test_markdown():
    shown = markdown_table([{"policy": "a|b", "reward": "1"}, {"policy": "c\nd", "reward": "2"}])
    assert shown == "| policy | reward |\n| :--- | ---: |\n| a\\|b | 1 |\n| c d | 2 |\n"
    assert markdown_table([]) == ""
