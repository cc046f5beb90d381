"""What the intervals of an evaluation show, one sentence per finding, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tailguard.evaluation.intervals import Interval
from tailguard.evaluation.metrics import METRICS, TAIL, Metric, cvar_key, heading_of
from tailguard.evaluation.record import MetricsKey, Row, interval_of, to_number
from tailguard.evaluation.report.table import format_interval

Verdict = Literal["good", "bad", "open", "note"]

_TAIL_NAME = f"the tail ({heading_of(TAIL)})"
_NOTHING = 0.05  # a fall in risk too small to speak of
_NEAR = 0.1  # of the way from the base policy's risk to the budget: close enough to count as met


@dataclass(frozen=True)
class Finding:
    """A sentence, and whether it is good, bad or leaves the question open.

    Attributes:
        verdict: ``note`` where it is neither.
        about: the policy or decoder it is about, which the sentence begins with.
        text: the sentence.
    """

    verdict: Verdict
    about: str
    text: str


def find_all(rows: Sequence[Row], *, judge_in_scorer_units: bool = False) -> list[Finding]:
    """All findings on the rows of an evaluation record, computed from their intervals alone.

    *Above* and *below* mean disjoint 95% intervals; overlapping ones are never called a
    difference, though a test on paired answers might find one.

    Args:
        rows: of the record; the one of kind ``base`` is what trained policies are compared with.
        judge_in_scorer_units: the judge's cost is in the units of the budgets, so budgets are
            checked by the judge; else by the training scorers.
    """
    base = next((row for row in rows if row.get("kind") == "base"), None)
    found: list[Finding] = []
    for row in rows:
        # Everything is said relative to the base policy; the dial's limits are spoken of together.
        if row is base or base is None or row.get("kind") == "dial":
            continue
        found.append(_training(row, base))
        found += _budget(row, base, judge_in_scorer_units)
        found += () if judge_in_scorer_units else _fall(row, base)
        found += _against_mean(row, rows)
        found += _only_by_scorers(row, base)
        found += [f for metric in METRICS for f in _different(row, base, metric)]
    return found


def compare(row: Row, other: Row, key: str, *, metrics: MetricsKey = "metrics") -> int | None:
    """1 where the row's interval is above the other's, −1 below, 0 overlapping, None unknown."""
    ours, theirs = _interval(row, key, metrics), _interval(other, key, metrics)
    if ours is None or theirs is None:
        return None
    if ours.lower > theirs.upper:
        return 1
    return -1 if ours.upper < theirs.lower else 0


def _finding(verdict: Verdict, row: Row, rest: str) -> Finding:
    name = str(row["name"])
    return Finding(verdict, name, name + rest)


def _training(row: Row, base: Row) -> Finding:
    reward, tail = compare(row, base, "reward"), compare(row, base, TAIL)
    return _finding(
        _tail_verdict(tail),
        row,
        f": reward is {_relation(reward)} {base['name']}'s"
        f" ({_both(row, base, 'reward')}); {_TAIL_NAME} is {_relation(tail)} {base['name']}'s"
        f" ({_both(row, base, TAIL)}).",
    )


def _tail_verdict(change: int | None) -> Verdict:
    if not change:
        return "open"
    return "bad" if change > 0 else "good"


def _budget(row: Row, base: Row, by_judge: bool) -> Iterator[Finding]:
    """Whether the row meets its own budget, and what is missing as a share of the way there."""
    budget, key = to_number(row.get("budget")), budget_metric(row)
    metrics: MetricsKey = "metrics" if by_judge else "scorer_metrics"
    risk = None if key is None else _interval(row, key, metrics)
    # A limit on some people's tail is told by the table of groups.
    if key is None or risk is None or not math.isfinite(budget) or row.get("raters") is not None:
        return
    who = "the judge" if by_judge else "the training scorers"
    shown = f"{heading_of(key)} by {who} {_show(row, key, metrics)}, budget {budget:.3g}"
    if risk.upper <= budget:
        yield _finding("good", row, f" meets its budget, interval included ({shown}).")
    elif risk.estimate <= budget:
        yield _finding("note", row, f" meets its budget by the estimate only ({shown}).")
    else:
        verdict: Verdict = "bad" if risk.lower > budget else "open"
        what = "breaks its budget" if risk.lower > budget else "is above its budget by the estimate"
        start = _interval(base, key, metrics)
        if start is not None and start.estimate - budget > _NOTHING:
            share = (risk.estimate - budget) / (start.estimate - budget)
            shown += f"; {share:.0%} of the way from {base['name']} to the budget is missing"
            if share <= _NEAR:
                verdict, what = "note", "nearly meets its budget"
        yield _finding(verdict, row, f" {what} ({shown}).")


def _fall(row: Row, base: Row) -> Iterator[Finding]:
    """What the judge sees of the fall in risk that was asked for, with an interval of the difference.

    Budgets are in the scorers' units, whose zero may be another than the judge's; a fall from the
    base policy's risk is the same on both scales. The interval joins those of the two risks as if
    they were independent (MOVER, Zou & Donner 2008).
    """
    budget, key = to_number(row.get("budget")), budget_metric(row)
    if key is None or not math.isfinite(budget):
        return
    start, judged_start, judged = (
        _interval(base, key, "scorer_metrics"),
        _interval(base, key, "metrics"),
        _interval(row, key, "metrics"),
    )
    if start is None or judged_start is None or judged is None:
        return
    asked, fall = start.estimate - budget, judged_start.estimate - judged.estimate
    if asked <= _NOTHING:
        return
    # MOVER: the distance from the estimate to each end is joined as if the two were independent.
    start_below, start_above = _arms(judged_start)
    below, above = _arms(judged)
    least = fall - math.hypot(start_below, above)
    most = fall + math.hypot(start_above, below)
    near = fall >= (1 - _NEAR) * asked and least > 0
    verdict: Verdict = "good" if near else "open" if most >= asked else "bad"
    yield _finding(
        verdict,
        row,
        f": by the judge {heading_of(key)} fell by {fall:.2f} [{least:.2f}, {most:.2f}] from"
        f" {base['name']}'s; its budget asked for {asked:.2f}.",
    )


def _against_mean(row: Row, rows: Sequence[Row]) -> Iterator[Finding]:
    """Whether a limit on the tail does what a limit on the mean does not."""
    mean = next((other for other in rows if other.get("measure") == "mean"), None)
    key = budget_metric(row)
    if mean is None or row.get("kind") != "trained" or key is None or row.get("measure") != "cvar":
        return
    change = compare(row, mean, key)
    yield _finding(
        _tail_verdict(change),
        row,
        f": {heading_of(key)} is {_relation(change)} that of {mean['name']}"
        f" ({_both(row, mean, key)}).",
    )


def budget_metric(row: Row) -> str | None:
    """The metric that the budget limits; None where the record does not hold it."""
    measure = str(row.get("measure") or str(row.get("target") or "cvar").split(" ")[0])
    if measure == "mean":
        return "cost"
    tail_mass = to_number(row.get("tail_mass"))
    return cvar_key(tail_mass) if measure == "cvar" and not math.isnan(tail_mass) else None


def _only_by_scorers(row: Row, base: Row) -> Iterator[Finding]:
    """Where the training scorers see a safer policy and the judge does not."""
    believed = compare(row, base, TAIL, metrics="scorer_metrics")
    judged = compare(row, base, TAIL)
    # What training optimises against stops being a measure: this is how that looks.
    if believed == -1 and judged is not None and judged >= 0:
        yield _finding(
            "bad",
            row,
            f" has a smaller tail than {base['name']} only by the training scorers;"
            f" by the judge it is {_relation(judged)} {base['name']}'s.",
        )


def _different(row: Row, base: Row, metric: Metric) -> Iterator[Finding]:
    """Whether a metric for which larger is worse differs from the base policy's."""
    change = compare(row, base, metric.key) if metric.if_above else None
    if change:
        shown = _both(row, base, metric.key, is_rate=metric.is_rate)
        what = metric.if_above if change > 0 else metric.if_below
        yield _finding("bad" if change > 0 else "good", row, f" {what} {base['name']} ({shown}).")


def _interval(row: Row, key: str, metrics: MetricsKey) -> Interval | None:
    """The interval, if both of its ends are known: only then can it be compared."""
    found = interval_of(row, key, metrics)
    unknown = found is None or math.isnan(found.lower) or math.isnan(found.upper)
    return None if unknown else found


def _arms(interval: Interval) -> tuple[float, float]:
    """How far the interval reaches below and above its estimate."""
    return interval.estimate - interval.lower, interval.upper - interval.estimate


def _relation(change: int | None) -> str:
    words = {1: "above", -1: "below", 0: "not distinguishable from"}
    return "not comparable with" if change is None else words[change]


def _both(row: Row, other: Row, key: str, *, is_rate: bool = False) -> str:
    ours, theirs = (_show(r, key, "metrics", is_rate=is_rate) for r in (row, other))
    return f"{ours} against {theirs}"


def _show(row: Row, key: str, metrics: MetricsKey, *, is_rate: bool = False) -> str:
    return str(format_interval(interval_of(row, key, metrics), is_rate=is_rate))
