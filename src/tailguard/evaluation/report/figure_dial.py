"""The dial: what is served at each limit that can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tailguard.evaluation.metrics import heading_of
from tailguard.evaluation.record import JsonNumber, Row, interval_of, to_number
from tailguard.evaluation.report.dial_part import dial_rows, served_risk
from tailguard.evaluation.report.figure_style import (
    Canvas,
    Panel,
    label_below,
    new_figure,
    panels,
    share_legend,
)
from tailguard.evaluation.report.findings import budget_metric

_SERVED, _BASE, _PROMISED = "#0072b2", "#777777", "#d55e00"


def draw_dial(rows: Sequence[Row]) -> Canvas | None:
    """Tail, reward, tokens and share withheld against the budget that is asked for."""
    # Limits for each group have a table of their own.
    shown = [row for row in dial_rows(rows) if row.get("raters") is None]
    limits = [row for row in shown if served_risk(row) is not None]
    base = next((row for row in rows if row.get("kind") == "base"), None)
    if len(limits) < 2 or base is None:
        return None
    budgets = np.array([to_number(row.get("budget")) for row in limits])
    key = budget_metric(limits[0]) or ""
    figure = new_figure(5.2)
    tail, reward, tokens, withheld = panels(figure, 4)
    _line(tail, budgets, limits, base, key)
    ends = [budgets.min(), budgets.max()]
    tail.plot(ends, ends, color="#333333", lw=1, ls=":", label="as asked")
    for name, marker, offset in (("bounded", "v", 0.0), ("certified", "*", 0.0)):
        marked = np.array([bool(row.get(name)) for row in limits])
        if marked.any():
            places = budgets[marked] + offset
            tail.plot(places, places, marker, color=_PROMISED, ms=9, label=name)
    tail.set_title(f"{heading_of(key)} of what is served")
    _line(reward, budgets, limits, base, "reward")
    reward.set_title("reward")
    for axis, name, scale in (
        (tokens, "tokens_per_answer", 1.0),
        (withheld, "abstained_rate", 100.0),
    ):
        values = scale * np.array([to_number(row.get(name)) for row in limits])
        axis.plot(budgets, values, "o-", color=_SERVED)
        axis.axhline(scale * to_number(base.get(name)), color=_BASE, lw=1, ls="--")
        axis.set_ylim(bottom=0.0)
    tokens.set_title("tokens per answer")
    withheld.set_title("withheld (%)")
    label_below([tail, reward, tokens, withheld], f"budget asked for ({heading_of(key)})")
    share_legend(figure, [tail])
    return figure


def draw_dial_frontier(points: Sequence[Mapping[str, JsonNumber]]) -> Canvas | None:
    """Reward and tokens against the risk of what is served, one line per price of a token."""
    prices = sorted({to_number(point.get("token_price")) for point in points})
    if len(points) < 2:
        return None
    figure = new_figure(3.4)
    axes = panels(figure, 2)
    for number, price in enumerate(prices):
        line = [point for point in points if to_number(point.get("token_price")) == price]
        line.sort(key=lambda point: to_number(point.get("risk")))
        values = np.array(
            [[to_number(p.get(k)) for k in ("risk", "reward", "tokens")] for p in line]
        )
        shade = str(0.75 * number / max(1, len(prices) - 1))  # dearer tokens are lighter
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot(values[:, 0], values[:, column], "o-", color=shade, ms=4, label=f"{price:g}")
    for axis, title in zip(axes, ("reward", "tokens per answer"), strict=True):
        axis.set_title(title)
    label_below(axes, "risk of what is served")
    share_legend(figure, axes)
    return figure


def draw_doubt(groups: Sequence[Mapping[str, JsonNumber]]) -> Canvas | None:
    """Tokens and draws of an answer against the doubt of the verdicts on a prompt's answers."""
    if len(groups) < 2:
        return None
    figure = new_figure(2.6)
    axes = panels(figure, 2)
    doubt = [to_number(group.get("doubt")) for group in groups]
    for axis, name in zip(axes, ("tokens", "draws"), strict=True):
        axis.plot(doubt, [to_number(group.get(name)) for group in groups], "o-", color=_SERVED)
        axis.set_ylim(bottom=0.0)
        axis.set_title(f"{name} per answer")
    label_below(axes, "doubt of the verdicts on a prompt's answers (bits)")
    return figure


def _line(axis: Panel, budgets: np.ndarray, limits: Sequence[Row], base: Row, key: str) -> None:
    """A metric by the judge with its intervals, and the base policy's."""
    found = [interval_of(row, key) for row in limits]
    ends = np.array([[i.estimate, i.lower, i.upper] if i else [np.nan] * 3 for i in found])
    arms = np.abs(ends[:, 1:] - ends[:, :1]).T
    axis.errorbar(
        budgets, ends[:, 0], yerr=arms, fmt="o-", color=_SERVED, capsize=3, label="served"
    )
    own = interval_of(base, key)
    if own is not None:
        axis.axhline(own.estimate, color=_BASE, lw=1, ls="--", label=str(base["name"]))
