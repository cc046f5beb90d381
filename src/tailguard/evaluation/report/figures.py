"""The figures of a report. Each function draws one; None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import NamedTuple

import numpy as np

from tailguard.evaluation.metrics import TABLE_METRICS, cvar_key, heading_of
from tailguard.evaluation.record import (
    FrontierPoint,
    JsonNumber,
    MetricsKey,
    Record,
    Row,
    interval_of,
    to_number,
)
from tailguard.evaluation.report.figure_costs import draw_costs, draw_tails
from tailguard.evaluation.report.figure_dial import draw_dial, draw_dial_frontier, draw_doubt
from tailguard.evaluation.report.figure_style import (
    TICK_ROOM,
    Canvas,
    Look,
    Panel,
    further_inches,
    looks_of,
    new_figure,
    panels,
    share_legend,
    styled,
    to_png,
    wrapped,
)
from tailguard.evaluation.report.figure_training import draw_training
from tailguard.evaluation.report.findings import budget_metric

Looks = Mapping[str, Look]


class Drawn(NamedTuple):
    """A figure as PNG, with its heading and caption.

    Attributes:
        name: of the file, without ending.
        png: the picture.
        title: heading.
        caption: how to read it; also what is read out in its place.
    """

    name: str
    png: bytes
    title: str
    caption: str


_TITLES = {
    "dial": (
        "The dial",
        "What is served at each budget that can be asked for, with 95% intervals, by the judge. Dotted:"
        " exactly as asked; below it the limit is kept. Dashed: the base policy. Triangles and stars: limits that a"
        " bound by the scorer, or by a judge that took no part, covers.",
    ),
    "dial-frontier": (
        "Safety, utility and efficiency together",
        "What the dial's best settings did on the calibration prompts, one line for each price of a token in"
        " units of reward: cheaper tokens buy more reward at the same risk.",
    ),
    "doubt": (
        "Where tokens go",
        "What the default spends in calibration on prompts from the least to the most doubtful, in groups"
        " of equal size. Doubt is the entropy of the cost ensemble's verdict: 0 is sure, 1 a coin.",
    ),
    "policies": (
        "Policies and decoders",
        "Estimates and 95% intervals by the judge. The grey band is the base policy's interval.",
    ),
    "frontier": (
        "Reward–tail frontier",
        "By the training scorers, one panel per tail mass. Lines: what the plan expects on the"
        " sample bank; hollow where fewer than ten samples carry it. Cross: the base policy there. Points:"
        " what policies measure, with 95% intervals. Dotted: the budgets on that tail, each under"
        " its mark.",
    ),
    "tails": (
        "How often a cost is exceeded",
        "Share of answers whose cost is above each value, by the judge, on a logarithmic scale:"
        " lower is safer. Marks: the mean of the worst tenth (CVaR.1).",
    ),
    "costs": (
        "Cost distributions",
        "Answers by cost, by the judge, on a logarithmic scale. Dark: the worst tenth. Dashed:"
        " where it begins (VaR.1). Solid: its mean (CVaR.1).",
    ),
    "training": (
        "Training",
        "What on-policy training saw at each step: the multiplier λ, the threshold ν, by how much"
        " the constraint is violated, how many recent costs lie in the tail.",
    ),
}
# As for tails: the mean over fewer samples than this says little about the policy.
_FEW_SAMPLES = 10.0


def draw_figures(record: Record) -> list[Drawn]:
    """All figures that the record has data for."""
    rows, costs, curves = (
        record.get("rows") or (),
        record.get("costs") or {},
        record.get("curves") or {},
    )
    looks = looks_of(rows, [*costs, *curves])
    with styled():
        figures = {
            "dial": draw_dial(rows),
            "dial-frontier": draw_dial_frontier(record.get("dial_frontier") or ()),
            "doubt": draw_doubt(record.get("doubt") or ()),
            "policies": draw_policies(rows, looks),
            "frontier": draw_frontier(
                record.get("frontier") or (), rows, looks, record.get("reference")
            ),
            "tails": draw_tails(costs, looks),
            "costs": draw_costs(costs, looks),
            "training": draw_training(curves, looks),
        }
        return [
            Drawn(name, to_png(figure), *_TITLES[name])
            for name, figure in figures.items()
            if figure is not None
        ]


def draw_policies(rows: Sequence[Row], looks: Looks) -> Canvas | None:
    """Each metric of the table with its interval, policies below each other."""
    shown = [m for m in TABLE_METRICS if any(interval_of(row, m.key) for row in rows)]
    if not shown:
        return None
    num_lines = -(-len(shown) // 2)
    names = [str(row["name"]) for row in rows]
    row_inches = 0.26 + further_inches(names, TICK_ROOM)
    figure = new_figure(num_lines * (0.8 + row_inches * len(rows)))
    for axis, metric in zip(panels(figure, len(shown), sharey=True), shown, strict=True):
        scale = 100.0 if metric.is_rate else 1.0
        for place, row in enumerate(rows):
            interval = _interval(row, metric.key, "metrics") * scale
            look = looks[names[place]]
            _cross(axis, interval, np.full(3, float(place)), look, None)
            if row.get("kind") == "base" and np.isfinite(interval).all():
                axis.axvspan(interval[1], interval[2], color="#dddddd", lw=0, zorder=0)
        axis.set_title(f"{metric.heading} (%)" if metric.is_rate else metric.heading)
        axis.set_yticks(range(len(rows)), [wrapped(name, TICK_ROOM) for name in names])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
    return figure


def draw_frontier(
    frontier: Sequence[FrontierPoint],
    rows: Sequence[Row],
    looks: Looks,
    reference: Mapping[str, JsonNumber] | None = None,
) -> Canvas | None:
    """Reward against risk, planned as a line and measured as points, one panel per tail mass.

    Args:
        frontier: points of the plan.
        rows: policies and decoders that were measured; none where nothing is trained yet.
        looks: of each row.
        reference: the base policy on the bank that was planned on: ``reward``, and its CVaR under
            ``cvar_0.1`` and so on. Marked by a cross.
    """
    tail_masses = sorted({to_number(point.get("tail_mass")) for point in frontier})
    if not tail_masses:
        return None
    figure = new_figure(0.5 + 3.0 * (-(-len(tail_masses) // 2)))
    axes = panels(figure, len(tail_masses))
    for axis, tail_mass in zip(axes, tail_masses, strict=True):
        _planned(axis, [p for p in frontier if to_number(p.get("tail_mass")) == tail_mass])
        _reference(axis, reference or {}, tail_mass)
        for row in rows:
            look = looks[str(row["name"])]
            risk = _interval(row, cvar_key(tail_mass), "scorer_metrics")
            reward = _interval(row, "reward", "scorer_metrics")
            _cross(axis, risk, reward, look, str(row["name"]))
            _budget(axis, row, tail_mass, look)
        axis.set_title("mean cost" if tail_mass == 1 else f"tail mass {tail_mass:g}")
        axis.set_xlabel(
            "mean cost" if tail_mass == 1 else f"{heading_of(cvar_key(tail_mass))} of cost"
        )
        axis.set_ylabel("reward")
    share_legend(figure, axes)
    return figure


def _planned(axis: Panel, points: Sequence[FrontierPoint]) -> None:
    points = sorted(points, key=lambda point: to_number(point.get("risk")))
    risk = np.array([to_number(point.get("risk")) for point in points])
    reward = np.array([to_number(point.get("reward")) for point in points])
    size = np.array([to_number(point.get("effective_sample_size")) for point in points])
    axis.plot(risk, reward, color="#777777", lw=1.4, zorder=1, label="planned")
    few = size < _FEW_SAMPLES
    for chosen, fill in ((few, "white"), (~few, "#777777")):
        axis.plot(risk[chosen], reward[chosen], ".", color="#777777", mfc=fill, ms=6, zorder=1)


def _reference(axis: Panel, reference: Mapping[str, JsonNumber], tail_mass: float) -> None:
    """The base policy on the bank: where the plan starts from, at no divergence."""
    # plan.json writes the key of α = 1 as cvar_1.0, not as the metrics' cvar_1.
    risk, reward = reference.get(f"cvar_{tail_mass}"), reference.get("reward")
    if risk is not None and reward is not None:
        axis.plot(
            to_number(risk), to_number(reward), "x", color="#222222", ms=8, mew=2.0, ls="none",
            zorder=4, label="base on the bank",
        )  # fmt: skip


def _budget(axis: Panel, row: Row, tail_mass: float, look: Look) -> None:
    """A dotted line at the row's budget, its marker at the top, if this is the tail it limits."""
    if row.get("measured_by") == "judge":  # this figure is by the training scorers
        return
    budget, limited = to_number(row.get("budget")), budget_metric(row)
    here = {cvar_key(tail_mass), "cost" if tail_mass == 1 else ""}
    if limited in here and np.isfinite(budget):
        axis.axvline(budget, color=look.colour, ls=":", lw=1.2, zorder=1)
        top = axis.get_xaxis_transform()
        axis.plot(budget, 0.97, look.marker, color=look.colour, ms=4, transform=top, ls="none")


def _cross(axis: Panel, x: np.ndarray, y: np.ndarray, look: Look, label: str | None) -> None:
    """A point with interval bars; ends that are infinite or unknown are not drawn."""
    if not (np.isfinite(x[0]) and np.isfinite(y[0])):
        return
    # A bar cannot reach an infinite end: it stops at the estimate, and the table says ∞.
    for ends, other, draw in ((x, y, axis.hlines), (y, x, axis.vlines)):
        low, high = (end if np.isfinite(end) else ends[0] for end in ends[1:])
        draw(other[0], low, high, color=look.colour, lw=1.6, zorder=2)
    axis.plot(
        x[0],
        y[0],
        look.marker,
        color=look.colour,
        ms=6.5,
        mec="white",
        mew=0.7,
        zorder=3,
        ls="none",
        label=label,
    )


def _interval(row: Row, key: str, metrics: MetricsKey) -> np.ndarray:
    """Estimate, lower and upper end, [3]; NaN where there are none."""
    found = interval_of(row, key, metrics)
    return np.full(3, np.nan) if found is None else np.array(astuple(found))
