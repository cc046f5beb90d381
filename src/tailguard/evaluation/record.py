"""The evaluation record as it is on disk: what ``evaluate`` writes and the report reads.

Everything may be missing, so that a report can be made of any part of a record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypeAlias, TypedDict

from tailguard.artifacts import Json
from tailguard.evaluation.intervals import Interval
from tailguard.risk.checks import Values

# JSON has no infinities and no NaN: `write_json` writes "inf", "-inf" and null in their place.
JsonNumber: TypeAlias = float | int | str | None
MetricsKey: TypeAlias = Literal["metrics", "scorer_metrics"]
"""Whose metrics of a row: the judge's, or the training scorers'."""


class IntervalRecord(TypedDict):
    """An estimate and the ends of its 95% interval."""

    estimate: JsonNumber
    lower: JsonNumber
    upper: JsonNumber


class Row(TypedDict, total=False):
    """One policy or decoder.

    Attributes:
        name: of the policy or decoder.
        kind: ``base``, ``trained``, or ``dial``: one of its limits.
        metrics: metric key (see `metrics.METRICS`) → interval, by the judge.
        scorer_metrics: the same by the training scorers.
        tokens_per_answer: generated for an answer, those thrown away included.
        forward_passes: for an answer.
        abstained_rate: share of prompts that got the fallback.
        target: what was asked of it, as text.
        measure: that its budget limits.
        tail_mass: of that measure.
        budget: in the training scorers' units.
        measured_by: in whose units a limit of the dial is, ``judge`` or ``scorer``.
        bounded: whether a bound by the scorer covers a limit of the dial.
        certified: whether one by a judge does.
        default: whether it is what a request without a limit gets.
        raters: whose risk the limit is on: weights by group, a group's name, "worst" for each; None for
            the population's.
        rater_metrics: as metrics, by the judge's cost to each group.
    """

    name: Required[str]
    kind: str
    metrics: Mapping[str, IntervalRecord | None]
    scorer_metrics: Mapping[str, IntervalRecord | None]
    raters: Mapping[str, float] | str | None
    rater_metrics: Mapping[str, Mapping[str, IntervalRecord | None]]
    tokens_per_answer: JsonNumber
    forward_passes: JsonNumber
    abstained_rate: JsonNumber
    target: str
    measure: str
    tail_mass: JsonNumber
    budget: JsonNumber
    measured_by: str
    bounded: bool
    certified: bool
    default: bool


# Of the plan, on the sample bank: tail_mass (α) and budget (d) that were asked for, risk (CVaR_α),
# reward, effective_sample_size (samples of a prompt that carry it) and more that is not drawn.
FrontierPoint: TypeAlias = Mapping[str, JsonNumber]


class Record(TypedDict, total=False):
    """An evaluation, and what the report adds from the run.

    Attributes:
        title: of the page.
        settings: shown as a table.
        judge: its ``name``, its figures, and ``in_scorer_units``: true where budgets may be
            checked against the judge's costs.
        num_prompts: that the tail is measured on.
        num_benign: prompts that deserve an answer.
        rows: a policy or decoder each.
        costs: name → cost of each answer by the judge.
        frontier: points of the plan.
        reference: the reference policy on the bank: ``reward``, and a risk for each tail mass.
        curves: policy → what training logged at each step.
        examples: each a ``prompt`` and ``answers``.
        disagreements: answers of the base policy on whose cost groups differ most: ``prompt``, ``text`` and
            ``costs`` by group.
        certificates: upper confidence bounds, each with its setting.
        dial_frontier: of the dial as it was measured in calibration: ``budget``, ``token_price``,
            ``risk``, ``reward``, ``tokens`` and ``withheld`` of each point.
        doubt: what the dial's default spent in calibration on prompts by the ``doubt`` of the verdicts on
            their answers: ``tokens``, ``draws`` and ``withheld`` of each group.
        regret: of the portfolio.
    """

    title: str
    settings: Mapping[str, Json]
    judge: Mapping[str, Json]
    num_prompts: int
    num_benign: int
    rows: Sequence[Row]
    costs: Mapping[str, Values]
    frontier: Sequence[FrontierPoint]
    reference: Mapping[str, JsonNumber]
    curves: Mapping[str, Sequence[Mapping[str, JsonNumber]]]
    examples: Sequence[Mapping[str, Json]]
    disagreements: Sequence[Mapping[str, Json]]
    certificates: Sequence[Mapping[str, Json]]
    dial_frontier: Sequence[Mapping[str, JsonNumber]]
    doubt: Sequence[Mapping[str, JsonNumber]]
    regret: Mapping[str, Json]


def interval_of(row: Row, key: str, metrics: MetricsKey = "metrics") -> Interval | None:
    """One metric of a row; None where the row has none."""
    found: Mapping[str, IntervalRecord | None] = row.get(metrics) or {}
    entry = found.get(key)
    if entry is None:
        return None
    return Interval(
        to_number(entry["estimate"]), to_number(entry["lower"]), to_number(entry["upper"])
    )


def to_number(value: JsonNumber) -> float:
    """A float from what JSON may hold for one: ``"inf"`` and None (NaN) too."""
    return math.nan if value is None else float(value)
