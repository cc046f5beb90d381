"""Spectral risk: a mixture of CVaRs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.risk.checks import (
    Number,
    Values,
    check_costs,
    check_tail_mass,
    check_weights,
    to_array,
)
from tailguard.risk.cvar import CVaR
from tailguard.risk.measure import RiskMeasure
from tailguard.risk.tail import cvar_curve, var_rows


@dataclass(frozen=True)
class Spectral(RiskMeasure):
    """Σ_k w_k CVaR_{α_k}(C): not one OCE but a mixture, with a vector of thresholds, one each.

    Mixtures of CVaRs are the comonotone coherent measures; their suprema are all law-invariant
    coherent ones (Kusuoka 2001).

    Attributes:
        tail_masses: α_k in (0, 1]; kept as a tuple.
        weights: w_k ≥ 0, summing to 1; kept as a tuple.
    """

    tail_masses: Sequence[Number]
    weights: Sequence[Number]

    def __post_init__(self) -> None:
        # Tuples, so that the measure is hashable: planning keeps its searches by measure.
        object.__setattr__(self, "tail_masses", tuple(float(a) for a in self.tail_masses))
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        if not self.tail_masses:
            raise InputError("tail_masses is empty; give at least one")
        if len(self.tail_masses) != len(self.weights):
            raise InputError(
                f"weights has {len(self.weights)} entries but tail_masses has "
                f"{len(self.tail_masses)}"
            )
        for k, alpha in enumerate(self.tail_masses):
            check_tail_mass(alpha, f"tail_masses[{k}]")
        if not all(math.isfinite(w) and w >= 0 for w in self.weights):
            raise InputError(f"weights must be finite and not negative, got {self.weights}")
        # 1e-6 lets weights pass that were written with six digits.
        total = sum(self.weights)
        if abs(total - 1.0) > 1e-6:
            raise InputError(f"weights must sum to 1, got {total:g}")
        # And makes them the weights of a mean, without which no rule for means holds. Not for
        # rounding alone: what was written must be what is read back.
        if abs(total - 1.0) > 1e-12:
            object.__setattr__(self, "weights", tuple(w / total for w in self.weights))

    def penalty(self, costs: Values, threshold: Values) -> Float[np.ndarray, "..."]:
        """Σ_k w_k (ν_k + max(c − ν_k, 0)/α_k).

        Args:
            costs: any shape.
            threshold: ν on the last axis, [K] or [..., K] with the leading axes broadcasting
                against the costs.
        """
        nu, alpha = to_array(threshold), np.asarray(self.tail_masses)
        if nu.ndim == 0 or nu.shape[-1] != alpha.size:
            raise InputError(
                f"threshold has shape {nu.shape}; its last axis must hold the {alpha.size} "
                "thresholds of a Spectral measure"
            )
        hinge = np.maximum(to_array(costs)[..., None] - nu, 0.0)
        return np.asarray((nu + hinge / alpha) @ np.asarray(self.weights))

    def minimiser(self, costs: Values, weights: Values | None = None) -> Float[np.ndarray, "k"]:
        """VaR at each tail mass."""
        array = check_costs(costs)
        mass = check_weights(weights, array.size)
        return np.array([float(var_rows(array, mass, alpha)) for alpha in self.tail_masses])

    def value_rows(
        self, costs: Float[np.ndarray, "*rows n"], weights: Float[np.ndarray, "*rows n"]
    ) -> Float[np.ndarray, "*rows"]:
        """The mixture for each row; the weights of a row sum to 1. No checks, no warning."""
        # One sort serves all tail masses.
        curve = cvar_curve(costs, weights, np.asarray(self.tail_masses))
        return np.asarray(np.tensordot(np.asarray(self.weights), curve, axes=1))

    def threshold_rows(
        self, costs: Float[np.ndarray, "rows n"], weights: Float[np.ndarray, "rows n"]
    ) -> Float[np.ndarray, "rows k"]:
        """VaR of each row at each tail mass."""
        return np.stack([var_rows(costs, weights, a) for a in self.tail_masses], axis=-1)

    @property
    def threshold_shape(self) -> tuple[int, ...]:
        """One threshold per CVaR."""
        return (len(self.tail_masses),)

    @property
    def smallest_tail(self) -> float:
        """The thinnest tail that has a weight."""
        return float(min(self._used))

    @property
    def slopes(self) -> Float[np.ndarray, "k"]:
        """Each CVaR's weight."""
        return np.asarray(self.weights, dtype=np.float64)

    @property
    def largest_slope(self) -> float:
        """That of all CVaRs together, above every threshold."""
        return float(sum(w / a for w, a in zip(self.weights, self.tail_masses, strict=True)))

    @property
    def minimiser_is_a_cost(self) -> bool:
        """Each VaR is."""
        return True

    @property
    def threshold_order(self) -> tuple[int, ...]:
        """From the widest tail to the thinnest: VaR does not fall as the tail gets thinner."""
        return tuple(np.argsort(-np.asarray(self.tail_masses), kind="stable").tolist())

    def relaxation(self) -> CVaR:
        """The CVaR of the widest tail that has a weight: no CVaR of a thinner one is smaller."""
        return CVaR(max(self._used))

    @property
    def _used(self) -> list[float]:
        pairs = zip(self.tail_masses, self.weights, strict=True)
        return [float(tail_mass) for tail_mass, weight in pairs if weight > 0]
