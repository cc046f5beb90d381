"""Curves of on-policy training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from tailguard.evaluation.record import JsonNumber, to_number
from tailguard.evaluation.report.figure_style import (
    Canvas,
    Look,
    label_below,
    new_figure,
    panels,
    share_legend,
)

Step: TypeAlias = Mapping[str, JsonNumber]
Looks = Mapping[str, Look]

# Keys in the log of a step, and the panel's title. Two logs spell reward and cost differently.
_CURVES = (
    (("multiplier",), "multiplier λ"),
    (("threshold",), "threshold ν (cost)"),
    (("violation",), "violation E φ − d (cost)"),
    (("tail_size",), "costs in the tail (N·α)"),
    (("reward", "mean_reward"), "mean reward"),
    (("cost", "mean_cost"), "mean cost"),
    (("window_cvar",), "CVaR.1 of recent costs"),
    (("kl",), "KL from the reference (nats)"),
)


def draw_training(curves: Mapping[str, Sequence[Step]], looks: Looks) -> Canvas | None:
    """What training logged, one panel per quantity that some policy has."""
    drawn = [
        (title, lines)
        for names, title in _CURVES
        if (lines := [line for p, steps in curves.items() for line in _lines(p, steps, names)])
    ]
    if not drawn:
        return None
    figure = new_figure(0.6 + 1.9 * (-(-len(drawn) // 2)))
    axes = panels(figure, len(drawn), sharex=True)
    for axis, (title, lines) in zip(axes, drawn, strict=True):
        for policy, steps, values in lines:
            axis.plot(steps, values, color=looks[policy].colour, lw=1.4, label=policy)
        if title.startswith("violation"):
            axis.axhline(0.0, color="#555555", lw=0.9)
        axis.set_title(title)
    label_below(axes, "step")
    share_legend(figure, axes)
    return figure


def _lines(
    policy: str, steps: Sequence[Step], names: Sequence[str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The curves of one quantity: a name, or numbered ones where there are several constraints."""
    keys = {key for step in steps for key in step}
    found = sorted(k for k in keys for n in names if k == n or k.rstrip("0123456789") == f"{n}_")
    places = np.array([to_number(step.get("step", i)) for i, step in enumerate(steps)])
    values = [np.array([to_number(step.get(key)) for step in steps]) for key in found]
    return [(policy, places, line) for line in values if np.isfinite(line).any()]
