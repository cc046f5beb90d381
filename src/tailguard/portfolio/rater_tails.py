"""Whose tail: laws of cost by rater, and risks under any weighting of the raters.

A mean over people hides the group that is hurt, as a mean over answers hides the answer that hurts.
So the table keeps each entry's law of cost to each rater. A request may weigh the raters (the law is
then that of a rater drawn by the weights and an answer drawn by the policy, together), or hold its limit
for each of them ("worst").

A law is kept as its mass on common knots, each cost split between the two knots around it so that its
mean stays. That is the same as the hinges E(C − t)₊ at the knots, it is linear in the weights, and it
spreads every law a little: every convex risk comes out at or above the risk of the costs themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tailguard.errors import InputError
from tailguard.risk import RiskLimit, RiskMeasure

WORST = "worst"
"""The request for which a limit holds for each rater."""

RatersAsked = Mapping[str, float] | str | None
"""Weights by rater, one rater's name, `WORST`, or None for the population."""

_NUM_KNOTS = 96
_FEW_RATERS = 6  # of more, laws are kept on half as many knots


@dataclass(frozen=True)
class RatersLimit:
    """A limit on risk, and whose.

    Attributes:
        limit: measure and budget.
        raters: whose tail it is about; None for the population's.
    """

    limit: RiskLimit
    raters: RatersAsked = None


def rater_weights(asked: object, known: Sequence[str]) -> Float[np.ndarray, " raters"] | None:
    """Weights of the raters in their order, summing to 1; None for `WORST`.

    Raises:
        InputError: an unknown rater, or weights that are negative, no numbers or sum to nothing.
    """
    if not known:
        raise InputError("raters: this dial knows no groups; leave raters out")
    if not isinstance(asked, str | Mapping):
        raise InputError(f"raters: {asked!r}; give a group, weights by group, or '{WORST}'")
    listed = ", ".join(known)
    if asked == WORST:
        return None
    asked = {asked: 1.0} if isinstance(asked, str) else cast("Mapping[object, object]", asked)
    given: dict[str, object] = {str(name): value for name, value in asked.items()}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"raters: no '{unknown[0]}'; there are {listed}, and '{WORST}' for each")
    weights = np.array([_weight(name, given.get(name, 0.0)) for name in known])
    if weights.max(initial=0.0) <= 0.0:
        raise InputError(f"raters: the weights sum to 0; give one of {listed} a positive weight")
    weights = weights / weights.max()  # sums of huge numbers are none
    return weights / weights.sum()


def _weight(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"raters.{name}: {value!r}; must be a number ≥ 0")
    if not (0.0 <= value <= sys.float_info.max):
        raise InputError(f"raters.{name}: {value}; must be finite and ≥ 0")
    return float(value)


def common_knots(costs: ArrayLike, num_raters: int = 1) -> Float[np.ndarray, " knots"]:
    """Knots for costs of any shape, from the smallest to the largest, dense in the upper tail."""
    num_knots = _NUM_KNOTS if num_raters <= _FEW_RATERS else _NUM_KNOTS // 2
    flat = np.asarray(costs, dtype=np.float64).ravel()
    distinct = np.unique(flat)
    if distinct.size <= num_knots:
        return distinct
    # A quarter even in quantiles, the others ever denser towards the worst.
    even = num_knots // 4
    tail = 1.0 - np.geomspace(0.7, 1e-4, num_knots - even)
    return np.unique(np.quantile(flat, [*np.linspace(0.0, 1.0, even), *tail]))


def mass_on(
    knots: Float[np.ndarray, " knots"], costs: Float[np.ndarray, "prompts raters"]
) -> Float[np.ndarray, "raters knots"]:
    """Law of each column on the knots: each cost split between the two around it.

    Costs beyond the knots, which those of what the knots were made of never are, go to the last one.
    """
    num_prompts, num_raters = costs.shape
    mass = np.zeros((num_raters, len(knots)))
    if len(knots) == 1:
        mass[:, 0] = 1.0
        return mass
    inside = np.clip(costs, knots[0], knots[-1])
    below = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
    upper = (inside - knots[below]) / (knots[below + 1] - knots[below])
    for rater in range(num_raters):
        for place, share in ((below, 1.0 - upper), (below + 1, upper)):
            mass[rater] += np.bincount(place[:, rater], share[:, rater], len(knots))
    return mass / num_prompts


@dataclass(frozen=True, eq=False)
class RaterTails:
    """Laws of cost of each entry to each rater.

    Attributes:
        raters: their names.
        knots: costs, rising.
        mass: on the knots; sums to 1 over them [entries, raters, knots].
        num_prompts: one answer each, that the laws were measured on.

    Raises:
        InputError: arrays that do not belong together.
    """

    raters: tuple[str, ...]
    knots: Float[np.ndarray, " knots"]
    mass: Float[np.ndarray, "entries raters knots"]
    num_prompts: int

    def __post_init__(self) -> None:
        """Refuse what is no set of laws."""
        expected = (len(self.raters), len(self.knots))
        if self.mass.ndim != 3 or self.mass.shape[1:] != expected:
            raise InputError(f"mass: shape {self.mass.shape}; must be [entries, {expected}]")
        if not np.isfinite(self.mass).all() or not np.isfinite(self.knots).all():
            raise InputError("mass: NaN or infinite; every answer needs a cost to every rater")

    @cached_property
    def hinges(self) -> Float[np.ndarray, "entries raters knots"]:
        """E(C − t)₊ at each knot t."""
        steps = np.maximum(self.knots[:, None] - self.knots[None, :], 0.0)
        return self.mass @ steps

    def mixed(
        self, measure: RiskMeasure, weights: Float[np.ndarray, " raters"]
    ) -> tuple[Float[np.ndarray, " entries"], Float[np.ndarray, " entries"]]:
        """Risk over raters and answers together, and its standard error.

        The error is at most Σ w_g·se_g (triangle inequality): the raters read the same answers.
        """
        law = np.einsum("g,egt->et", weights, self.mass)
        hinges = np.einsum("g,egt->et", weights, self.hinges)
        risk, penalties = self._risk(measure, law, hinges)
        # At the mixture's own threshold, under each rater's law.
        first = np.matmul(self.mass, penalties[:, :, None])[:, :, 0]
        second = np.matmul(self.mass, (penalties**2)[:, :, None])[:, :, 0]
        return risk, self._error(first, second) @ weights

    def each(
        self, measure: RiskMeasure
    ) -> tuple[Float[np.ndarray, "entries raters"], Float[np.ndarray, "entries raters"]]:
        """Risk to each rater, and its standard error."""
        shape = self.mass.shape[:2]
        law, hinges = (a.reshape(-1, len(self.knots)) for a in (self.mass, self.hinges))
        risk, penalties = self._risk(measure, law, hinges)
        first, second = (law * penalties).sum(axis=1), (law * penalties**2).sum(axis=1)
        return risk.reshape(shape), self._error(first, second).reshape(shape)

    def _risk(
        self,
        measure: RiskMeasure,
        law: Float[np.ndarray, "rows knots"],
        hinges: Float[np.ndarray, "rows knots"],
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows knots"]]:
        """Risk of each law, and φ_ν at the knots for the ν at which E φ_ν is that risk."""
        if measure.hinge is None:
            knots = np.broadcast_to(self.knots, law.shape)
            thresholds = measure.threshold_rows(knots, law)
            return measure.value_rows(knots, law), measure.penalty(knots, thresholds[:, None])
        weight, tail_mass = measure.hinge
        # ν + E(C − ν)₊/α is least at a knot: between two of them it is a straight line.
        found = self.knots + hinges / tail_mass
        best = found.argmin(axis=1)
        beyond = np.maximum(self.knots - self.knots[best, None], 0.0)
        tail = found[np.arange(len(found)), best]
        plain = 1.0 - weight
        return (
            plain * (law @ self.knots) + weight * tail,
            plain * self.knots + weight * (self.knots[best, None] + beyond / tail_mass),
        )

    def _error(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if self.num_prompts < 2:
            return np.full(first.shape, np.inf)
        return np.sqrt(np.maximum(second - first**2, 0.0) / (self.num_prompts - 1))

    def take(self, entries: np.ndarray) -> RaterTails:
        """Of some entries, by index or mask."""
        return RaterTails(self.raters, self.knots, self.mass[entries], self.num_prompts)
