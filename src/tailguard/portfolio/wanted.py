"""Which entries of a table requests would get, among many that differ by little."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import WORST, RatersAsked
from tailguard.risk import CVaR

_TAIL_MASSES = (0.05, 0.1, 0.25, 0.5, 1.0)
_MARGINS = (0.0, 2.0, 4.0)
_BUDGETS = 32


def wanted(table: DialTable, token_prices: Sequence[float]) -> Bool[np.ndarray, " entries"]:
    """Entries that some request gets: for the population, each rater, all alike and for each of them.

    Requests are limits on CVaR from the smallest tail that is measured to the mean, at budgets from the
    smallest risk to the largest, at each price, with several margins.
    """
    chosen = np.zeros(table.num_entries, dtype=bool)
    names = () if table.tails is None else table.tails.raters
    groups: list[RatersAsked] = [None, *names]
    if names:
        groups += [WORST, dict.fromkeys(names, 1.0)]
    values = [table.reward - table.kl_coef * table.kl - p * table.tokens for p in token_prices]
    masses = {max(tail_mass, table.smallest_tail_mass) for tail_mass in _TAIL_MASSES}
    for tail_mass in sorted(masses):
        for raters in groups:
            risk, error = table.rater_risks(CVaR(tail_mass), raters)
            for margin in _MARGINS:
                high = (risk + margin * np.where(np.isfinite(error), error, 0.0)).max(axis=1)
                order = np.argsort(high, kind="stable")
                # The best value among the entries up to each place, at places spread over risks.
                budgets = np.linspace(float(high.min()), float(high.max()), _BUDGETS)
                counts: np.ndarray = np.asarray(np.searchsorted(high[order], budgets, side="right"))
                for value in values:
                    best = _running_argmax(value[order])
                    chosen[order[best[np.maximum(counts, 1) - 1]]] = True
    return chosen


def _running_argmax(values: np.ndarray) -> np.ndarray:
    """Place of the largest value up to each place; the first of equal ones."""
    best = np.maximum.accumulate(values)
    rises = np.concatenate([[True], values[1:] > best[:-1]])
    return np.maximum.accumulate(np.where(rises, np.arange(len(values)), 0))
