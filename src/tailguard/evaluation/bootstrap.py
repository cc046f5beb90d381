"""Resampled CVaRs and their standard errors: the arithmetic under the intervals."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

# Resamples are held as counts, a block of rows at a time, so that memory stays below ~100 MB.
_COUNTS_AT_ONCE = 1_000_000


def cvar_with_error(
    costs: Float[np.ndarray, "n"],
    minus: Float[np.ndarray, "n"] | None,
    weights: Float[np.ndarray, "b n"],
    tail_masses: Float[np.ndarray, "k"],
) -> tuple[Float[np.ndarray, "k b"], Float[np.ndarray, "k b"]]:
    """CVaR_α of the costs, less that of ``minus`` where given, under each row of weights.

    Its standard error comes from the influence function: sd(h)/(α√n), h = max(C − VaR_α, 0), and
    for a difference h is the difference of the two, cost by cost.

    Returns:
        Estimates and standard errors, a row for each tail mass, a column for each row of weights.
    """
    parts = [costs] if minus is None else [costs, minus]
    tails = [_Tail(part, weights) for part in parts]
    estimates = np.zeros((tail_masses.size, weights.shape[0]))
    errors = np.zeros_like(estimates)
    for k, alpha in enumerate(tail_masses):
        edges = [tail.edge(float(alpha)) for tail in tails]
        # Only costs beyond some resample's VaR enter its tail: for α = .01 that is a few columns.
        columns = np.unique(np.concatenate([columns for columns, _ in edges]))
        mass, excess = weights[:, columns], np.zeros((weights.shape[0], columns.size))
        for sign, part, (_, threshold) in zip((1.0, -1.0), parts, edges, strict=False):
            hinge = np.maximum(part[columns] - threshold[:, None], 0.0)
            # ν + E(C − ν)+/α at ν = VaR is CVaR: no second pass over the tail is needed.
            estimates[k] += sign * (threshold + np.sum(mass * hinge, axis=1) / alpha)
            excess += sign * hinge
        mean = np.sum(mass * excess, axis=1)
        variance = np.sum(mass * np.square(excess), axis=1) - np.square(mean)
        errors[k] = np.sqrt(np.maximum(variance, 0.0) / costs.size) / alpha
    return estimates, errors


def resampled(
    costs: Float[np.ndarray, "n"],
    minus: Float[np.ndarray, "n"] | None,
    tail_masses: Float[np.ndarray, "k"],
    num_resamples: int,
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, "k b"], Float[np.ndarray, "k b"]]:
    """``cvar_with_error`` of bootstrap resamples of the rows, pairs kept together."""
    blocks = [
        cvar_with_error(costs, minus, weights, tail_masses)
        for weights in _weights(costs.size, num_resamples, generator)
    ]
    return (
        np.concatenate([estimates for estimates, _ in blocks], axis=1),
        np.concatenate([errors for _, errors in blocks], axis=1),
    )


def _weights(
    size: int, num_resamples: int, generator: np.random.Generator
) -> Iterator[Float[np.ndarray, "b n"]]:
    """Shares of each observation in resamples drawn with replacement, a block at a time."""
    block = max(1, _COUNTS_AT_ONCE // size)
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        drawn = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size) / size


class _Tail:
    """Costs from worst to best with the mass of each row of weights cumulated in that order."""

    def __init__(self, costs: Float[np.ndarray, "n"], weights: Float[np.ndarray, "b n"]) -> None:
        self.order = np.argsort(-costs, kind="stable")
        self.ordered = costs[self.order]
        # Sorted once for all resamples: each differs from the sample by its weights only.
        self.mass = np.cumsum(weights[:, self.order], axis=1)

    def edge(self, tail_mass: float) -> tuple[np.ndarray, np.ndarray]:
        """The columns that any row's worst α mass reaches, and each row's VaR_α."""
        # Shares are sums of k/n, so a tail of exactly α may fall short of it by rounding.
        reached = self.mass[:, :] >= tail_mass * (1.0 - 1e-12)
        first = np.where(reached[:, -1], np.argmax(reached, axis=1), self.order.size - 1)
        return self.order[: int(first.max()) + 1], self.ordered[first]
