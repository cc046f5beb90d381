"""A bank at one β: what every plan on it shares, and the figures of any tilt."""

import math
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from tailguard.errors import InputError
from tailguard.planning.bank import SampleBank
from tailguard.planning.reachable import Reachable, smallest_reachable
from tailguard.planning.solution import Solution
from tailguard.planning.tilt import Matrix, Threshold, Tilt, sample_penalty
from tailguard.risk import RiskMeasure
from tailguard.risk.limit import RiskLimit

TOLERANCE = 1e-4  # of the span: how far a search may leave the bound above the value


class Problem:
    """A bank tilted by its reward, with scales, reachable risks and reports.

    Attributes:
        bank: the samples.
        kl_coef: β.
        tilt: π_ref·exp(r/β).
        spread: the range of costs.
    """

    def __init__(self, bank: SampleBank, kl_coef: float) -> None:
        """Tilt by the reward alone.

        Raises:
            InputError: kl_coef is not positive and finite.
        """
        if not (math.isfinite(kl_coef) and kl_coef > 0):
            raise InputError(f"kl_coef must be positive and finite, got {kl_coef}")
        self.bank = bank
        self.kl_coef = float(kl_coef)
        self.tilt = Tilt(bank, self.kl_coef)
        self.spread = float(np.ptp(bank.cost)) or 1.0
        self._reached: dict[tuple[RiskMeasure, str], Reachable] = {}

    @cached_property
    def span(self) -> float:
        """V without constraint less V of the policy that always takes the cheapest sample."""
        cost = self.bank.average_raters(self.bank.cost)
        if self.bank.present is not None:
            cost = np.where(self.bank.present, cost, np.inf)
        worth = self.bank.reward + self.kl_coef * self.bank.log_prob
        cheapest = np.take_along_axis(worth, cost.argmin(axis=1)[:, None], axis=1).mean()
        return max(self.tilt.free_value - float(cheapest), 1e-9 * (1.0 + abs(self.tilt.free_value)))

    def reached(self, constraint: RiskLimit) -> Reachable:
        """The smallest risk on the bank, kept for other budgets."""
        key = (constraint.measure, constraint.scope)
        if key not in self._reached:
            self._reached[key] = smallest_reachable(self.bank, *key)
        return self._reached[key]

    def risk(self, constraint: RiskLimit, weights: Matrix) -> float:
        """ρ(C) of a policy on the bank, in the constraint's scope."""
        costs, mass = self.bank.row_costs(), self.bank.row_weights(weights)
        if constraint.scope == "per_prompt":
            return float(constraint.measure.value_rows(costs, mass).mean())
        flat = mass.ravel() / self.bank.num_prompts
        return float(constraint.measure.value_rows(costs.ravel(), flat))

    def threshold(self, constraint: RiskLimit, weights: Matrix | None = None) -> Threshold:
        """The ν at which a policy's E φ_ν is its risk; without weights, of the free policy."""
        mass = self.bank.row_weights(self.tilt.free_weights if weights is None else weights)
        if constraint.scope == "per_prompt":
            return constraint.measure.threshold_rows(self.bank.row_costs(), mass)
        return constraint.measure.minimiser(self.bank.row_costs().ravel(), mass.ravel())

    def report(
        self,
        constraints: tuple[RiskLimit, ...],
        multipliers: tuple[float, ...],
        thresholds: tuple[Threshold, ...],
        bound: float,
        *,
        listed: bool = False,
    ) -> Solution:
        """The figures of the tilt that these multipliers and thresholds make."""
        total = np.zeros_like(self.bank.reward)
        for constraint, multiplier, threshold in zip(
            constraints, multipliers, thresholds, strict=True
        ):
            if multiplier > 0:
                total += multiplier * sample_penalty(self.bank, constraint.measure, threshold)
        weights, log_mass = self.tilt.weights(total)
        mean = np.einsum("xi,xi->", weights, self.bank.reward) / self.bank.num_prompts
        priced = np.einsum("xi,xi->", weights, total) / self.bank.num_prompts
        kl = max(0.0, (float(mean) - float(priced)) / self.kl_coef - float(log_mass.mean()))
        size = 1.0 / np.square(weights).sum(axis=1)
        return Solution(
            constraints,
            listed,
            self.kl_coef,
            feasible=True,
            multipliers=multipliers,
            thresholds=thresholds,
            value=float(mean) - self.kl_coef * kl,
            reward=float(mean),
            risks=tuple(self.risk(constraint, weights) for constraint in constraints),
            kl=kl,
            effective_sample_size=float(size.mean()),
            dual_bound=max(bound, float(mean) - self.kl_coef * kl),
            weights=weights,
            smallest_reachable_risks=tuple(self.reached(c).risk for c in constraints),
            tail_sample_size=min(_tail_samples(c, size) for c in constraints),
            rater_weight=self.bank.rater_weight,
        )

    def infeasible(
        self,
        constraints: tuple[RiskLimit, ...],
        smallest: tuple[float, ...],
        *,
        listed: bool = False,
    ) -> Solution:
        """The answer where nothing on the bank meets the budgets: NaN, and what can be met."""
        none = (math.nan,) * len(constraints)
        return Solution(
            constraints,
            listed,
            self.kl_coef,
            feasible=False,
            multipliers=none,
            thresholds=none,
            value=math.nan,
            reward=math.nan,
            risks=none,
            kl=math.nan,
            effective_sample_size=math.nan,
            dual_bound=math.nan,
            weights=np.full_like(self.bank.reward, math.nan),
            smallest_reachable_risks=smallest,
            rater_weight=self.bank.rater_weight,
        )


def _tail_samples(constraint: RiskLimit, size: Float64[np.ndarray, "prompts"]) -> float:
    """Effective samples in the thinnest tail: α times those of a prompt, or of the whole bank."""
    tail_mass = constraint.measure.smallest_tail
    if tail_mass == 1.0:  # every cost counts alike, so there is no tail to be thin
        return math.inf
    pooled = len(size) ** 2 / float((1.0 / size).sum())
    return tail_mass * (pooled if constraint.scope == "pooled" else float(size.mean()))
