"""Intervals for rates and quantiles: binomial counts, no assumption on the costs."""

import math

from scipy.stats import norm

from tailguard.errors import InputError
from tailguard.evaluation.intervals import Interval
from tailguard.risk import CVaR, var_upper_bound
from tailguard.risk.checks import Number, Values, check_costs


def rate_interval(num_hits: int, num_trials: int, *, confidence: Number = 0.95) -> Interval:
    """Wilson's interval for a rate: never empty at 0 or n hits, never outside [0, 1].

    Raises:
        InputError: no trials, or hits outside [0, num_trials].

    Source: Wilson (1927); Brown, Cai & DasGupta (2001).
    """
    if num_trials < 1 or not 0 <= num_hits <= num_trials:
        raise InputError(f"num_hits={num_hits} of num_trials={num_trials} is not a rate")
    z = _normal_quantile(confidence)
    rate, weight = num_hits / num_trials, z * z / num_trials
    centre = (rate + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (rate * (1 - rate) + weight / 4)) / (1 + weight)
    # At 0 and n hits Wilson's end is exactly 0 or 1; rounding could leave the estimate outside.
    lower = 0.0 if num_hits == 0 else max(0.0, centre - half)
    upper = 1.0 if num_hits == num_trials else min(1.0, centre + half)
    return Interval(rate, lower, upper)


def var_interval(costs: Values, tail_mass: Number, *, confidence: Number = 0.95) -> Interval:
    """Interval for VaR_α between two order statistics; at least the nominal coverage for any law.

    An end is infinite where so few costs were seen that no order statistic will do; for α = 1,
    the smallest possible cost, that is always the lower end.

    Raises:
        InputError: NaN, empty, tail_mass outside (0, 1], confidence outside (0, 1).
    """
    array = check_costs(costs)
    estimate = CVaR(tail_mass).minimiser(array)
    side = 0.5 * (1.0 + confidence)
    upper = var_upper_bound(array, tail_mass, confidence=side)
    # The mirror image: the (1 − α)-quantile of C is minus the α-quantile of −C.
    if tail_mass == 1:  # nothing bounds the smallest possible cost from below
        return Interval(estimate, -math.inf, upper)
    return Interval(estimate, -var_upper_bound(-array, 1.0 - tail_mass, confidence=side), upper)


def _normal_quantile(confidence: Number) -> float:
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence must lie in (0, 1), got {confidence!r}")
    return float(norm.isf(0.5 * (1.0 - confidence)))
