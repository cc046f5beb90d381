"""Bounds on a tail from a band around the whole law of cost, as conformal tail risk control makes them.

A band says F(x_(i)) ≥ L_i for all order statistics at once. The costliest law within it puts the mass
L_i − L_{i−1} at x_(i) and what is left at the declared largest cost (2502.20285).
"""

import numpy as np
from scipy.stats import beta


def dkw(size: int, confidence: float) -> np.ndarray:
    """Least F at each order statistic, one-sided: i/n − sqrt(log(1/δ)/2n)."""
    gap = np.sqrt(-np.log(1 - confidence) / (2 * size))
    return np.maximum(np.arange(1, size + 1) / size - gap, 0.0)


_BERK_JONES: dict[tuple[int, float], np.ndarray] = {}


def berk_jones(size: int, confidence: float, simulations: int = 4000) -> np.ndarray:
    """Least F at each order statistic: one level of its beta law for all, found by simulation."""
    key = size, confidence
    if key not in _BERK_JONES:
        rng, places = np.random.default_rng(3), np.arange(1, size + 1)
        least = np.empty(simulations)
        for k in range(simulations):
            uniform = np.sort(rng.random(size))  # what F of the order statistics is
            least[k] = beta.cdf(uniform, places, size + 1 - places).max()
        share = 1.0 - float(np.quantile(least, confidence, method="higher"))
        _BERK_JONES[key] = beta.ppf(share, places, size + 1 - places)
    return _BERK_JONES[key]


def by_law(costs: np.ndarray, alpha: float, largest: float, least: np.ndarray) -> float:
    """CVaR of the costliest law whose F is at least so much at each order statistic."""
    values = np.append(np.sort(costs), largest)
    mass = np.diff(np.concatenate([[0.0], least, [1.0]]))[::-1]
    before = np.concatenate([[0.0], np.cumsum(mass)[:-1]])
    taken = np.minimum(mass, np.maximum(alpha - before, 0.0))
    return float((taken * values[::-1]).sum() / alpha)
