"""What a report says of the dial: a verdict in two sentences, findings, and its certificates as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tailguard.artifacts import Json
from tailguard.evaluation.intervals import Interval
from tailguard.evaluation.metrics import METRICS, heading_of
from tailguard.evaluation.record import MetricsKey, Record, Row, interval_of, to_number
from tailguard.evaluation.report.findings import Finding, budget_metric, compare
from tailguard.evaluation.report.table import NOTHING

ABOUT = "the dial"


def dial_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows of the dial's limits, from the strictest."""
    found = [row for row in rows if row.get("kind") == "dial"]
    return sorted(found, key=lambda row: to_number(row.get("budget")))


def served_risk(row: Row) -> Interval | None:
    """The risk that the row's limit is on, by whom the dial was measured."""
    key = budget_metric(row)
    by: MetricsKey = "metrics" if row.get("measured_by") == "judge" else "scorer_metrics"
    if key is None or row.get("raters") is None:
        return None if key is None else interval_of(row, key, by)
    # A limit for each group: that of whoever bears the most, where the judge knows them.
    borne = [tail_of(row, group, key) for group in row.get("rater_metrics") or ()]
    found = [risk for risk in borne if risk is not None] if by == "metrics" else []
    return max(found, key=lambda risk: risk.estimate, default=None)


def tail_of(row: Row, group: str, key: str) -> Interval | None:
    """A metric of a row by the judge's cost to one group."""
    metrics = (row.get("rater_metrics") or {}).get(group)
    return None if metrics is None else interval_of({"name": group, "metrics": metrics}, key)


def rater_table(rows: Sequence[Row], key: str = "cvar_0.1") -> list[dict[str, str]]:
    """The tail to each group of every row by the judge, and whose is the largest."""
    found: list[dict[str, str]] = []
    for row in rows:
        tails = {group: tail_of(row, group, key) for group in row.get("rater_metrics") or ()}
        known = {group: tail for group, tail in tails.items() if tail is not None}
        if known:
            cells = {
                group: f"{t.estimate:.2f} [{t.lower:.2f}, {t.upper:.2f}]"
                for group, t in known.items()
            }
            most = max(known, key=lambda group: known[group].estimate)
            found.append({"policy": row["name"]} | cells | {"bears the most": most})
    return found


def is_kept(row: Row) -> bool | None:
    """Whether the limit is within what was measured: True also for overlaps, None where unknown."""
    risk, budget = served_risk(row), to_number(row.get("budget"))
    return None if risk is None else not risk.lower > budget


def verdict(record: Record) -> str:
    """Two sentences: what the default serves beside the base policy, and what is kept and certified."""
    rows = record.get("rows") or ()
    limits = dial_rows(rows)
    base = next((row for row in rows if row.get("kind") == "base"), None)
    default = next((row for row in limits if row.get("default")), None)
    if default is None or base is None:
        return ""
    key = budget_metric(default) or "cvar_0.1"
    tail = heading_of(key)
    judge = str((record.get("judge") or {}).get("name") or "the judge")
    first = (
        f"Asked for {tail} ≤ {to_number(default.get('budget')):.2f}, its default, the dial serves"
        f" reward {_shown(default, 'reward')} at {tail} {_shown(default, key)} by {judge}, where"
        f" {base['name']} has {_shown(base, 'reward')} at {_shown(base, key)}; an answer takes"
        f" {_tokens(default)} tokens ({base['name']} {_tokens(base)}), and"
        f" {to_number(default.get('abstained_rate')):.1%} are withheld."
    )
    kept = [row for row in limits if is_kept(row)]
    return f"{first} {len(kept)} of its {len(limits)} limits are kept; {_certified(record)}."


def _certified(record: Record) -> str:
    certificates = record.get("certificates") or ()
    shown = [c for c in certificates if c.get("certified")]
    if not shown:
        bounded = any(c.get("bounded") for c in certificates)
        return "no limit is certified by a judge" + (
            ", and bounds are the scorer's own" if bounded else ""
        )
    strictest = min(shown, key=lambda c: to_number(c.get("budget")))
    return (
        f"certified by a judge that took no part, at {strictest['confidence']:.0%} confidence on"
        f" {strictest['num_prompts']} held-out prompts, are {len(shown)} of {len(certificates)} limits,"
        f" from {to_number(strictest['budget']):.2f} on"
    )


def dial_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """What holds of all limits together, each said once."""
    limits = dial_rows(rows)
    base = next((row for row in rows if row.get("kind") == "base"), None)
    if not limits or base is None:
        return
    known = [row for row in limits if is_kept(row) is not None]
    broken = [row for row in known if not is_kept(row)]
    by = "the judge" if limits[0].get("measured_by") == "judge" else "the training scorers"
    yield Finding(
        "bad" if broken else "good",
        ABOUT,
        f"{ABOUT} keeps {len(known) - len(broken)} of {len(known)} limits by {by}"
        + (f"; broken: {_names(broken)}." if broken else "."),
    )
    better, worse = ([r for r in limits if _better(r, base) == sign] for sign in (1, -1))
    if better:
        yield Finding(
            "good",
            ABOUT,
            f"{ABOUT} has more reward and a smaller tail than {base['name']} at once at"
            f" {len(better)} of {len(limits)} limits.",
        )
    if worse:
        yield Finding(
            "bad",
            ABOUT,
            f"{ABOUT} has a larger tail than {base['name']} at {_names(worse)}.",
        )
    tokens = [to_number(row.get("tokens_per_answer")) for row in limits]
    withheld = [to_number(row.get("abstained_rate")) for row in limits]
    yield Finding(
        "note",
        ABOUT,
        f"{ABOUT} takes {min(tokens):.0f} to {max(tokens):.0f} tokens per answer ({base['name']}"
        f" {_tokens(base)}) and withholds {min(withheld):.1%} to {max(withheld):.1%}.",
    )
    for metric in METRICS:
        for change in (1, -1) if metric.if_above else ():
            which = [row for row in limits if compare(row, base, metric.key) == change]
            what = metric.if_above if change > 0 else metric.if_below
            if which:
                yield Finding(
                    "bad" if change > 0 else "good",
                    ABOUT,
                    f"{ABOUT} {what} {base['name']} at {_names(which, len(limits))}.",
                )


def _better(row: Row, base: Row) -> int:
    """1 where reward and tail are better than the base's, −1 where the tail is worse, else 0."""
    key = budget_metric(row)
    tail = None if key is None else compare(row, base, key)
    if tail == 1:
        return -1
    return int(tail == -1 and compare(row, base, "reward") == 1)


def _names(rows: Sequence[Row], num: int = 0) -> str:
    if num and len(rows) == num:
        return "every limit"
    return ", ".join(f"≤ {to_number(row.get('budget')):.2f}" for row in rows)


def certificate_table(certificates: Sequence[Mapping[str, Json]]) -> list[dict[str, str]]:
    """What was asked along the dial, and what two bounds say of it, in words."""
    return [
        {
            "asked": str(c.get("asked") or NOTHING),
            "bound by the scorer": _number(c.get("scorer_bound")),
            "bounded": "yes" if c.get("bounded") else "no",
            "bound by the judge": _number(c.get("judge_bound")),
            "certified": "yes" if c.get("certified") else "no",
            "confidence": f"{to_number(c.get('confidence')):.0%}",
            "prompts": str(c.get("num_prompts", NOTHING)),
        }
        for c in certificates
    ]


def _number(value: Json) -> str:
    number = to_number(value)
    return f"{number:.3f}" if abs(number) < float("inf") else NOTHING


def _shown(row: Row, key: str) -> str:
    found = interval_of(row, key)
    return NOTHING if found is None else f"{found.estimate:.2f}"


def _tokens(row: Row) -> str:
    return f"{to_number(row.get('tokens_per_answer')):.0f}"
