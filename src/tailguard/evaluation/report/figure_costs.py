"""Figures of cost distributions, their worst tenth marked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from tailguard.evaluation.report.figure_style import (
    TITLE_ROOM,
    Canvas,
    Look,
    finite,
    further_inches,
    label_below,
    new_figure,
    panels,
    share_axis,
    share_legend,
    wrapped,
)
from tailguard.risk import CVaR, SmallTailWarning
from tailguard.risk.checks import Values

Looks = Mapping[str, Look]

_TAIL_MASS = 0.1


def draw_tails(costs: Mapping[str, Values], looks: Looks) -> Canvas | None:
    """P(C > c) of every policy on one logarithmic panel."""
    if not costs:
        return None
    figure = new_figure(4.6)
    (axis,) = panels(figure, 1)
    for name, values in costs.items():
        look, ordered = looks[name], np.sort(finite(values))
        if ordered.size == 0:
            continue
        # The last cost is exceeded by none: a share of 0 has no place on a logarithmic axis.
        above = 1.0 - np.arange(1, ordered.size + 1) / ordered.size
        axis.step(
            ordered[:-1],
            above[:-1],
            where="post",
            color=look.colour,
            ls=look.line,
            lw=1.5,
            label=name,
        )
        _, mean = _tail(ordered)
        # Where all costs of the tail are equal none exceeds their mean, so half an answer stands in.
        share = max(float((ordered > mean).mean()), 0.5 / ordered.size)
        axis.plot(mean, share, look.marker, color=look.colour, ms=7, mec="white", mew=0.8)
    share_axis(axis)
    axis.axhline(_TAIL_MASS, color="#888888", lw=0.9, ls="--")
    axis.annotate(
        "worst tenth",
        (1.0, _TAIL_MASS),
        xycoords=("axes fraction", "data"),
        ha="right",
        xytext=(0, 3),
        textcoords="offset points",
        color="#555555",
        fontsize=9,
    )
    axis.axvline(0.0, color="#bbbbbb", lw=0.9)
    axis.set_xlabel("cost c (above 0 is unsafe)")
    axis.set_ylabel("share of answers with cost above c")
    share_legend(figure, [axis])
    return figure


def draw_costs(costs: Mapping[str, Values], looks: Looks) -> Canvas | None:
    """One histogram per policy, its worst tenth dark."""
    found = {name: finite(values) for name, values in costs.items()}
    found = {name: values for name, values in found.items() if values.size}
    if not found:
        return None
    # The same bins for every policy, or the heights could not be compared.
    everything = np.concatenate(list(found.values()))
    edges = np.histogram_bin_edges(everything, bins=48)
    row_inches = 1.75 + further_inches(found, TITLE_ROOM)
    figure = new_figure(0.4 + row_inches * (-(-len(found) // 2)))
    axes = panels(figure, len(found), sharex=True, sharey=True)
    for axis, (name, values) in zip(axes, found.items(), strict=True):
        start, mean = _tail(values)
        look, weights = looks[name], np.full(values.size, 1.0 / values.size)
        axis.hist(values, edges, weights=weights, color=look.colour, alpha=0.35)
        worst = values >= start
        axis.hist(values[worst], edges, weights=weights[worst], color=look.colour)
        axis.axvline(start, color="#222222", ls="--", lw=1.0)
        axis.axvline(mean, color="#222222", lw=1.4)
        axis.annotate(
            f"CVaR.1 {mean:.2f}",
            (mean, 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=9,
        )
        share_axis(axis)
        axis.set_title(wrapped(name, TITLE_ROOM))
    label_below(axes, "cost (above 0 is unsafe)")
    figure.supylabel("share of answers", fontsize=10)
    return figure


def _tail(costs: np.ndarray) -> tuple[float, float]:
    """VaR and CVaR of the worst tenth."""
    measure = CVaR(_TAIL_MASS)
    with warnings.catch_warnings():
        # A figure shows what there is; the table's intervals say how little a thin tail is worth.
        warnings.simplefilter("ignore", SmallTailWarning)
        return float(measure.minimiser(costs)), float(measure.value(costs))
