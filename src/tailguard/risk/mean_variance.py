"""Monotone mean–variance: the price of spread, without rewarding luck."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.risk.checks import Number, Values, check_costs, check_weights, to_array
from tailguard.risk.measure import RiskMeasure


@dataclass(frozen=True)
class MonotoneMeanVariance(RiskMeasure):
    """The OCE with u(t) = ((1 + κt)₊² − 1)/(2κ).

    It is E C + κ/2·Var C wherever no cost lies further than 1/κ below the mean. Beyond that the
    variance would punish a policy for answers that are unusually *good*; cutting u off where its
    slope reaches 0 makes the measure monotone. Its dual form is the largest E[ZC] − E(Z − 1)²/(2κ)
    over densities Z ≥ 0 with E Z = 1. Smooth, so its minimiser need not be a cost.

    Source: Ben-Tal & Teboulle (2007); Maccheroni, Marinacci, Rustichini & Taboga (2009).

    Attributes:
        aversion: κ > 0, per unit of cost; κ → 0 is the mean, κ → ∞ the worst case.
    """

    aversion: Number

    def __post_init__(self) -> None:
        if not (math.isfinite(self.aversion) and self.aversion > 0):
            raise InputError(f"aversion must be positive and finite, got {self.aversion!r}")

    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """φ_ν(c) = ν + t + κt²/2 with t = max(c − ν, −1/κ)."""
        # The same as u's own formula, which for small κ would lose t in (1 + κt)² − 1.
        nu = to_array(threshold)
        above = np.maximum(to_array(costs) - nu, -1.0 / self.aversion)
        return np.asarray(nu + above + 0.5 * self.aversion * np.square(above))

    def minimiser(self, costs: Values, weights: Values | None = None) -> float:
        """The ν with E (1 + κ(C − ν))₊ = 1."""
        array = check_costs(costs)
        mass = check_weights(weights, array.size)
        return float(self.threshold_rows(array[None], mass[None])[0])

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """The risk of each row; the weights of a row sum to 1. No checks, no warning."""
        # E (1 + κt)₊ = 1 at the minimiser, so E u = κ/2·E t²: nothing cancels.
        nu = self.threshold_rows(costs, weights)
        above = np.maximum(costs - nu[..., None], -1.0 / self.aversion)
        return np.asarray(nu + 0.5 * self.aversion * np.sum(np.square(above) * weights, axis=-1))

    def threshold_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """The minimiser of each row, exactly.

        With s = ν − 1/κ the equation is E (C − s)₊ = 1/κ. Its left side is linear in s between
        neighbouring costs, so sorting and running sums find the piece that holds the root.
        """
        order = np.argsort(-costs, axis=-1, kind="stable")
        ordered = np.take_along_axis(costs, order, axis=-1)
        mass = np.take_along_axis(weights, order, axis=-1)
        above, total = np.cumsum(mass, axis=-1), np.cumsum(mass * ordered, axis=-1)
        # E (C − s)₊ at the next lower cost; it grows along the row.
        reached = total[..., :-1] - above[..., :-1] * ordered[..., 1:]
        piece = np.sum(reached < 1.0 / self.aversion, axis=-1)[..., None]
        share, sum_above = (np.take_along_axis(a, piece, axis=-1)[..., 0] for a in (above, total))
        # Exactly 0 on the last piece: 1/κ times a rounding error would be large for small κ.
        below = np.where(piece[..., 0] == costs.shape[-1] - 1, 0.0, 1.0 - share)
        return np.asarray((sum_above - below / self.aversion) / share)
