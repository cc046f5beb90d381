"""An upper confidence bound on a risk that needs no threshold: each comes from the costs before it.

`risk_upper_bound` takes a ν that was fixed on other data. Of a judge that scored nothing before there
are no other data. But E φ_ν(C) ≥ ρ(C) for *every* ν, so the capital of a gambler who bets that ρ < m

    K_t(m) = Π_{i≤t} (1 + λ_i (m − φ_{ν_i}(C_i)))

is a non-negative supermartingale where ρ(C) ≥ m, as long as ν_i and λ_i depend on the costs before the
i-th alone. Ville's inequality then bounds the chance that it ever reaches 1/δ by δ, as for a fixed ν
(Waudby-Smith & Ramdas 2020, arXiv 2010.09686). Only the first few costs are spent on finding ν.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.risk.bounds import check_confidence
from tailguard.risk.checks import Number, Values, check_costs
from tailguard.risk.measure import RiskMeasure

_LARGEST_STAKE = 0.9  # the largest share of the capital that one bet may lose
_FIRST_TAIL = 2.0  # costs in the tail before the first bet
_GROWTH = 1.25  # ν and the stakes are taken anew when so many times more costs are known
_BISECTIONS = 50


def predictable_risk_bound(
    costs: Values, measure: RiskMeasure, *, upper: Number, confidence: Number = 0.95
) -> float:
    """Upper confidence bound on ρ(C), its thresholds predicted from the costs before.

    Args:
        costs: [n] independent costs, one answer per prompt, in an order that does not depend on them.
        measure: ρ.
        upper: declared largest cost; no smallest is needed.
        confidence: in [.5, 1), the least probability that the bound holds.

    Returns:
        The bound, at most ``upper`` and at least the sample's own risk.

    Raises:
        InputError: a cost above ``upper``, NaN, empty, a bad confidence, or a penalty that is not
            finite at ``upper``.
    """
    array = check_costs(costs)
    check_confidence(confidence)
    if not math.isfinite(upper) or array.max() > upper:
        raise InputError(
            f"upper: {upper:g}, with costs up to {array.max():g}; declare a finite range that holds"
            " them, or clip them"
        )
    goal = -math.log1p(-confidence)
    penalties, largest, stakes = _games(array, measure, float(upper), goal)
    low, high = float(penalties.min()), float(upper)
    if low >= high:
        return high
    for _ in range(_BISECTIONS):
        value = 0.5 * (low + high)
        # A penalty above the value loses at most the share that may be lost.
        room = np.maximum(largest - value, 1e-12 * (1.0 + abs(value)))
        bets = np.minimum(stakes, _LARGEST_STAKE / room)
        if np.cumsum(np.log1p(bets * (value - penalties))).max() >= goal:
            high = value
        else:
            low = value
    # A lucky order could reject values below the sample's own; such a bound would only confuse.
    weights = np.full(array.size, 1.0 / array.size)
    return min(max(high, float(measure.value_rows(array, weights))), float(upper))


def _games(
    costs: Float[np.ndarray, "n"], measure: RiskMeasure, upper: float, goal: float
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Penalty of each cost, the largest that it could have had, and the stake of its bet."""
    penalties, largest = np.full(costs.size, upper), np.full(costs.size, upper)
    stakes = np.zeros(costs.size)
    for start, stop in _blocks(costs.size, measure.smallest_tail):
        past = costs[:start]
        threshold = measure.minimiser(past)
        top = float(measure.penalty(np.array(upper), threshold))
        if not math.isfinite(top):
            raise InputError(f"upper: {upper:g}; the penalty of {measure} is not finite there")
        known = measure.penalty(past, threshold)
        penalties[start:stop] = np.minimum(measure.penalty(costs[start:stop], threshold), top)
        largest[start:stop] = top
        # One observation at half the range, as if it had been seen, keeps the first bets small.
        doubt = 0.25 * (top - float(known.min())) ** 2
        variance = (doubt + float(np.square(known - known.mean()).sum())) / (start + 1)
        if variance > 0.0:  # else all costs so far were the largest
            stakes[start:stop] = math.sqrt(2.0 * goal / (costs.size * variance))
    return penalties, largest, stakes


def _blocks(num: int, tail_mass: float) -> list[tuple[int, int]]:
    """Rows that share a threshold; those before the first are not bet on."""
    edges = [min(num, math.ceil(_FIRST_TAIL / tail_mass))]
    while edges[-1] < num:
        edges.append(min(num, math.ceil(edges[-1] * _GROWTH)))
    return list(itertools.pairwise(edges))
