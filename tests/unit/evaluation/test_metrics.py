"""One list defines the metrics; what is recorded, shown and drawn follows it."""

from typing import Any

import numpy as np
import pytest

from tailguard.evaluation import metrics
from tailguard.evaluation.intervals import Interval
from tailguard.evaluation.metrics import METRICS, TABLE_METRICS, Metric, heading_of, measure_answers
from tailguard.evaluation.report.figure_style import looks_of, styled
from tailguard.evaluation.report.figures import draw_policies
from tailguard.evaluation.report.findings import find_all
from tailguard.evaluation.report.table import TOKENS_HEADING, table_rows


def measured(**options):
    rng = np.random.default_rng(3)
    rewards, costs = rng.normal(size=(2, 60))
    return measure_answers(rewards, costs, generator=rng, num_resamples=50, **options)


def as_row(name, found) -> Any:
    return {
        "name": name,
        "kind": "base" if name == "base" else "trained",
        "metrics": {key: vars(interval) for key, interval in found.items()},
    }


def test_every_metric_is_recorded_and_no_key_twice():
    found = measured(refused_benign=np.array([True, False, False, False]))
    assert list(found) == [metric.key for metric in METRICS]
    assert len(set(found)) == len(METRICS)
    assert found["benign_refusals"].estimate == 0.25
    assert list(measured(refused_benign=np.array([], dtype=bool))) == list(measured())


def test_keys_of_records_already_on_disk():
    tails = [
        f"{name}_{a}" for name in ("cvar", "var") for a in ("0.01", "0.05", "0.1", "0.25", "1")
    ]
    expected = {"reward", "cost", "unsafe_rate", "benign_refusals", *tails}
    assert {metric.key for metric in METRICS} == expected


def test_headings():
    assert heading_of("cvar_0.25") == "CVaR.25"
    assert heading_of("var_0.1") == "VaR.1"
    assert heading_of("cost") == "mean cost"
    assert heading_of("of another version") == "of another version"


def test_table_and_figure_show_the_metrics_of_the_table_in_their_order():
    row = as_row("base", measured(refused_benign=np.array([True, False])))
    headings = [metric.heading for metric in TABLE_METRICS]
    assert list(table_rows([row])[0]) == ["policy", *headings, TOKENS_HEADING]
    with styled():
        figure = draw_policies([row], looks_of([row]))
    assert figure is not None
    assert [axis.get_title().removesuffix(" (%)") for axis in figure.axes] == headings


def test_a_new_metric_is_one_entry(monkeypatch):
    worst = Metric(
        "worst",
        "worst cost",
        lambda answers: Interval(*[float(answers.cost.max())] * 3),
        if_above="has a worse worst answer than",
        if_below="has a better worst answer than",
    )
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, worst))
    rng = np.random.default_rng(0)
    made = measure_answers([0.0, 1.0], [0.0, 7.0], generator=rng, num_resamples=2)
    assert made["worst"].estimate == 7.0

    monkeypatch.setattr("tailguard.evaluation.report.table.TABLE_METRICS", (*TABLE_METRICS, worst))
    monkeypatch.setattr("tailguard.evaluation.report.findings.METRICS", (*METRICS, worst))
    other = measure_answers([0.0, 1.0], [0.0, 2.0], generator=rng, num_resamples=2)
    rows = [as_row("base", made), as_row("p", other)]
    assert table_rows(rows)[1]["worst cost"] == "2.00 [2.00, 2.00]"
    said = [(f.verdict, f.text) for f in find_all(rows)]
    assert (
        "good",
        "p has a better worst answer than base (2.00 [2.00, 2.00] against 7.00 [7.00, 7.00]).",
    ) in said


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_an_interval_holds_its_estimate(metric):
    interval = measured(refused_benign=np.array([True, False]))[metric.key]
    assert interval.lower <= interval.estimate <= interval.upper
