"""Upper confidence bounds that hold for every sample size, whatever the shape of the tail.

The costs must be independent draws of one law, in an order that does not depend on their values,
and the threshold must have been chosen on other data.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.stats import binom

from tailguard.errors import InputError
from tailguard.risk.checks import Number, Values, check_costs, check_tail_mass
from tailguard.risk.cvar import CVaR
from tailguard.risk.measure import RiskMeasure

# The largest share of the capital that one bet may lose. Shares from .75 to .99 give much the
# same bound; 1 would let a single worst-case value end the game.
_LARGEST_STAKE = 0.9
_BISECTIONS = 50


def betting_upper_bound(
    values: Values, *, lower: Number, upper: Number, confidence: Number
) -> float:
    """Upper confidence bound on the mean of values in a declared range, by betting.

    Scaled to Y = (upper − value)/(upper − lower) ∈ [0, 1], a gambler bets that E Y exceeds m:
    the capital K_t(m) = Π_{i≤t} (1 + min(b_i, s/m)(Y_i − m)) is a non-negative supermartingale
    where E Y ≤ m, so by Ville's inequality it reaches 1/δ with probability at most δ = 1 − confidence.
    Every m whose capital did is rejected. The stake b_i = sqrt(2 log(1/δ) / (n σ̂²_{i−1}))
    looks only at earlier values; the capital falls in m, so bisection finds the edge.

    Args:
        values: [n], each within [lower, upper], in the order in which they were drawn.
        lower: the smallest value there can be, declared in advance.
        upper: the largest value there can be, declared in advance: never the sample's maximum.
        confidence: in [.5, 1), the least probability that the bound holds.

    Returns:
        A bound between the sample's mean and ``upper``.

    Raises:
        InputError: a value outside the range, an empty or infinite range, NaN.

    Source: Waudby-Smith & Ramdas (2020), arXiv 2010.09686, section 4.
    """
    array = check_costs(values, "values")
    check_confidence(confidence)
    if not (math.isfinite(lower) and math.isfinite(upper) and lower <= upper):
        raise InputError(f"the range [lower, upper] must be finite, got [{lower}, {upper}]")
    _check_range(array, lower, upper, "values")
    if upper == lower:
        return float(upper)
    gains = (upper - array) / (upper - lower)
    goal = -math.log1p(-confidence)
    stakes = _plug_in_stakes(gains, goal)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        mean = 0.5 * (low + high)
        bets = np.minimum(stakes, _LARGEST_STAKE / mean)
        log_capital = np.cumsum(np.log1p(bets * (gains - mean)))
        if log_capital.max() >= goal:
            low = mean
        else:
            high = mean
    # A lucky order could reject means below the sample's own; such a bound would only confuse.
    return float(max(upper - low * (upper - lower), array.mean()))


def risk_upper_bound(
    costs: Values,
    measure: RiskMeasure,
    threshold: Values,
    *,
    lower: Number = -math.inf,
    upper: Number = math.inf,
    confidence: Number = 0.95,
) -> float:
    """Upper confidence bound on ρ(C) for any measure: one on E φ_ν(C), which is never smaller.

    φ_ν does not fall as cost grows, so the range of the penalty is [φ_ν(lower), φ_ν(upper)]. Where
    the bound on E φ_ν exceeds the declared largest cost it says less than the declaration does,
    for ρ(C) ≤ upper: then ``upper`` is the bound.

    Args:
        costs: [n] independent costs, one answer per prompt.
        measure: whose penalty is bounded.
        threshold: ν, fixed without looking at these costs.
        lower: declared smallest cost; −∞ will do for CVaR, whose penalty is never below ν.
        upper: declared largest cost, for example the clip.
        confidence: in [.5, 1).

    Returns:
        The bound, at most ``upper``; +∞ where the declared range leaves the penalty unbounded.

    Raises:
        InputError: a cost outside the declared range, NaN, empty, a bad confidence.
    """
    array = check_costs(costs)
    check_confidence(confidence)
    if math.isnan(lower) or math.isnan(upper) or lower > upper:
        raise InputError(f"lower={lower} and upper={upper} do not declare a range")
    _check_range(array, lower, upper, "costs")
    if not math.isfinite(upper):
        return math.inf
    smallest, largest = (float(measure.penalty(np.array(c), threshold)) for c in (lower, upper))
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        return math.inf
    penalties = np.clip(measure.penalty(array, threshold), smallest, largest)  # rounding only
    bound = betting_upper_bound(penalties, lower=smallest, upper=largest, confidence=confidence)
    return min(bound, float(upper))


def cvar_upper_bound(
    costs: Values,
    tail_mass: Number,
    threshold: Values,
    *,
    lower: Number = -math.inf,
    upper: Number = math.inf,
    confidence: Number = 0.95,
) -> float:
    """Upper confidence bound on CVaR_α: ``risk_upper_bound`` for the penalty ν + max(c − ν, 0)/α."""
    return risk_upper_bound(
        costs, CVaR(tail_mass), threshold, lower=lower, upper=upper, confidence=confidence
    )


def var_upper_bound(costs: Values, tail_mass: Number, *, confidence: Number = 0.95) -> float:
    """Upper confidence bound on VaR_α, free of any assumption on the cost.

    The k-th smallest of n costs is at least the (1 − α)-quantile with probability at least
    P(Binomial(n, 1 − α) < k); the smallest such k for which that reaches ``confidence`` is taken.

    Returns:
        An order statistic; +∞ where n is too small for any to do (n < log(1 − confidence)/log(1 − α)).

    Raises:
        InputError: NaN, empty, tail_mass outside (0, 1], a bad confidence.
    """
    array = check_costs(costs)
    check_tail_mass(tail_mass)
    check_confidence(confidence)
    below = int(binom.ppf(confidence, array.size, 1.0 - tail_mass))
    while binom.cdf(below, array.size, 1.0 - tail_mass) < confidence:  # ppf's rounding
        below += 1
    if below >= array.size:
        return math.inf
    return float(np.partition(array, below)[below])


def prompts_needed(tail_mass: Number, confidence: Number, share: Number = 1.0) -> int:
    """The fewest prompts, one answer each, on which a bound on CVaR_α is worth computing.

    Where no cost exceeds ν, which is the best that can be seen, the bound is still about
    ν + (B − ν)/α · log(1/δ)/n, with B the declared largest cost and δ = 1 − confidence. It is to
    be at most d. Costs above ν need more prompts. For another measure take its `smallest_tail`.

    Args:
        tail_mass: α in (0, 1].
        confidence: in [.5, 1).
        share: (d − ν)/(B − ν) in (0, 1]; with 1, fewer prompts than this say nothing that the
            declared largest cost did not say already.

    Raises:
        InputError: a number out of its range.
    """
    check_tail_mass(tail_mass)
    check_confidence(confidence)
    if not 0.0 < share <= 1.0:
        raise InputError(f"share must lie in (0, 1], got {share!r}")
    return max(1, math.ceil(-math.log1p(-confidence) / (tail_mass * share)))


def _plug_in_stakes(gains: Float[np.ndarray, "n"], goal: float) -> Float[np.ndarray, "n"]:
    """b_i from the mean and variance of the values before i, each with one pseudo-observation."""
    count = np.arange(1, gains.size + 1)
    mean = (0.5 + np.cumsum(gains)) / (count + 1)
    variance = (0.25 + np.cumsum(np.square(gains - mean))) / (count + 1)
    known = np.concatenate([[0.25], variance[:-1]])
    return np.sqrt(2.0 * goal / (gains.size * known))


def check_confidence(confidence: Number, name: str = "confidence") -> None:
    """Raise unless .5 ≤ confidence < 1: a bound that is more likely wrong than right is none."""
    if not 0.5 <= confidence < 1.0:
        raise InputError(f"{name} must be at least 0.5 and below 1, got {confidence!r}")


def _check_range(array: Float[np.ndarray, "n"], lower: Number, upper: Number, name: str) -> None:
    outside = (array < lower) | (array > upper)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"{name}[{at}] = {array[at]:g} lies outside the declared range [{lower:g}, {upper:g}]; "
            "clip the cost, or declare its true range"
        )
