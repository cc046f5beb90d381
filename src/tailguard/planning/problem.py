"""A bank at one β: what every plan on it shares, and the figures of any tilt."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from tailguard.errors import InputError
from tailguard.planning.bank import SampleBank
from tailguard.planning.reachable import Reachable, smallest_reachable
from tailguard.planning.solution import Solution
from tailguard.planning.tilt import Matrix, Threshold, Tilt, sample_penalty
from tailguard.risk import RiskMeasure
from tailguard.risk.limit import RaterLimit, RiskLimit

TOLERANCE = 1e-4  # of the span: how far a search may leave the bound above the value
_RISK_TOLERANCE = 1e-6  # how far a risk may pass its budget, see `Problem.tolerance`
_LEAST_TOLERANCE = 1e-9  # of max(1, |d|): below this, rounding in the risk itself would decide
# Costs further out than this quantile of their distance from the median do not set the scale: one
# cost of 1e8 must not make a budget of 0.1 look like rounding. The second is for costs of which
# nine in ten are alike.
_SCALE_QUANTILES = (0.9, 0.99)
# Multiples of λ tried where the tilt that a search found does not pass the check, and powers of 4
# of a small λ at the thresholds of the policy with the least risk, which such tilts approach.
_LARGER = (1.0, 1.001, 1.03, 1.3, 2.0, 4.0, 16.0, 256.0)
_RAY = tuple(4.0**power for power in range(36))

Tilted = tuple[tuple[float, ...], tuple[Threshold, ...]]  # λ and ν of each constraint


class Problem:
    """A bank tilted by its reward, with scales, reachable risks and reports.

    Attributes:
        bank: the samples.
        kl_coef: β.
        tilt: π_ref·exp(r/β).
        scale: of the costs: how far the bulk of them lies from their median.
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
        self.scale = _robust_scale(bank.cost if bank.present is None else bank.cost[bank.present])
        self._reached: dict[tuple[RiskMeasure, str, int | None], Reachable] = {}

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
        key = (constraint.measure, constraint.scope, rater_of(constraint))
        if key not in self._reached:
            bank = self.bank.seen_by(key[2])
            self._reached[key] = smallest_reachable(bank, constraint.measure, constraint.scope)
        return self._reached[key]

    def risk(self, constraint: RiskLimit, weights: Matrix) -> float:
        """ρ(C) of a policy on the bank, in the constraint's scope."""
        bank = self.bank.seen_by(rater_of(constraint))
        costs, mass = bank.row_costs(), bank.row_weights(weights)
        if constraint.scope == "per_prompt":
            return float(constraint.measure.value_rows(costs, mass).mean())
        flat = mass.ravel() / self.bank.num_prompts
        return float(constraint.measure.value_rows(costs.ravel(), flat))

    def threshold(self, constraint: RiskLimit, weights: Matrix | None = None) -> Threshold:
        """The ν at which a policy's E φ_ν is its risk; without weights, of the free policy."""
        bank = self.bank.seen_by(rater_of(constraint))
        mass = bank.row_weights(self.tilt.free_weights if weights is None else weights)
        if constraint.scope == "per_prompt":
            return constraint.measure.threshold_rows(bank.row_costs(), mass)
        return constraint.measure.minimiser(bank.row_costs().ravel(), mass.ravel())

    @property
    def slack(self) -> float:
        """How far below a budget searches may stop: far less than any budget's tolerance."""
        return 1e-4 * self.tolerance(0.0)

    def tolerance(self, budget: float) -> float:
        """τ: a risk counts as within its budget d up to d + τ, and no search allows for more.

        A millionth of |d| or of the scale of costs, and at most 1e-6; but never less than a
        billionth of max(1, |d|), where rounding would decide. So it is at most 1e-6·max(1, |d|).
        """
        relative = _RISK_TOLERANCE * min(1.0, max(abs(budget), self.scale))
        return max(relative, _LEAST_TOLERANCE * max(1.0, abs(budget)))

    def within(self, constraint: RiskLimit, weights: Matrix) -> bool:
        """Whether a policy's risk is within the budget, up to its tolerance; False for NaN."""
        limit = constraint.budget + self.tolerance(constraint.budget)
        return self.risk(constraint, weights) <= limit

    def aim(self, constraint: RiskLimit, above: float | None = None) -> RiskLimit | None:
        """The limit that a search keeps instead; None where the budget is out of reach.

        A tilt with a finite λ only approaches the policy of least risk. So a budget at the edge of
        the reachable is raised until half of the tolerance lies between, by at most three quarters
        of it; the last quarter is left to rounding.

        Args:
            constraint: what is asked.
            above: how far the least reachable risk lies above the budget, where that is known
                better than from this constraint alone.
        """
        if above is None:
            above = self.reached(constraint).risk - constraint.budget
        tolerance = self.tolerance(constraint.budget)
        if not above <= 0.25 * tolerance:
            return None
        return replace(constraint, budget=constraint.budget + max(0.0, above + 0.5 * tolerance))

    def answer(
        self,
        constraints: tuple[RiskLimit, ...],
        found: Sequence[Tilted],
        bound: float,
        *,
        listed: bool = False,
    ) -> Solution:
        """The first tilt that passes the check, or the answer that there is none.

        Args:
            constraints: what was asked.
            found: tilts, the best one first.
            bound: on the value of any policy within the budgets.
            listed: whether the constraints were asked as a list.
        """
        bound = bound if math.isfinite(bound) else self.tilt.free_value
        for multipliers, thresholds in self._attempts(constraints, found):
            solution = self._report(constraints, multipliers, thresholds, bound, listed=listed)
            if self._holds(solution):
                return solution
        smallest = tuple(self.reached(c).risk for c in constraints)
        return self.infeasible(constraints, smallest, listed=listed)

    def _attempts(
        self, constraints: tuple[RiskLimit, ...], found: Sequence[Tilted]
    ) -> Iterator[Tilted]:
        """What was found, then safer tilts that are worth less."""
        for multipliers, thresholds in found:
            if all(map(math.isfinite, multipliers)):
                for factor in _LARGER:
                    yield tuple(factor * multiplier for multiplier in multipliers), thresholds
        cheapest = tuple(self.reached(c).threshold for c in constraints)
        for factor in _RAY:
            yield (factor * self.kl_coef / self.scale,) * len(constraints), cheapest

    def _holds(self, solution: Solution) -> bool:
        """Whether every figure is a number and every risk, of these very weights, within budget."""
        figures = [solution.value, solution.reward, solution.kl, solution.dual_bound]
        figures += [*solution.multipliers, *solution.risks]
        arrays = [solution.weights, *map(np.asarray, solution.thresholds)]
        return (
            all(map(math.isfinite, figures))
            and all(bool(np.isfinite(array).all()) for array in arrays)
            and all(self.within(c, solution.weights) for c in solution.constraints)
        )

    def _report(
        self,
        constraints: tuple[RiskLimit, ...],
        multipliers: tuple[float, ...],
        thresholds: tuple[Threshold, ...],
        bound: float,
        *,
        listed: bool,
    ) -> Solution:
        """The figures of the tilt that these multipliers and thresholds make."""
        total = np.zeros_like(self.bank.reward)
        for constraint, multiplier, threshold in zip(
            constraints, multipliers, thresholds, strict=True
        ):
            if multiplier > 0:
                bank = self.bank.seen_by(rater_of(constraint))
                penalty = sample_penalty(bank, constraint.measure, threshold)
                with np.errstate(over="ignore"):  # infinite: the sample gets no weight
                    total += multiplier * penalty
        weights, log_mass = self.tilt.weights(total)
        mean = np.einsum("xi,xi->", weights, self.bank.reward) / self.bank.num_prompts
        paid = np.where(weights > 0, total, 0.0)
        priced = np.einsum("xi,xi->", weights, paid) / self.bank.num_prompts
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


def rater_of(limit: RiskLimit) -> int | None:
    """Whose risk a limit is on; None for all raters of the bank by their weights."""
    return limit.rater if isinstance(limit, RaterLimit) else None


def _robust_scale(costs: Float64[np.ndarray, "..."]) -> float:
    """How far costs lie from their median, but for the furthest; 1 where all are alike."""
    distance = np.abs(costs - np.median(costs))
    for level in _SCALE_QUANTILES:
        # "lower": interpolation would let one outlier into the quantile of a small bank
        scale = float(np.quantile(distance, level, method="lower"))
        if scale > 0:
            return scale
    return 1.0


def _tail_samples(constraint: RiskLimit, size: Float64[np.ndarray, "prompts"]) -> float:
    """Effective samples in the thinnest tail: α times those of a prompt, or of the whole bank."""
    tail_mass = constraint.measure.smallest_tail
    if tail_mass == 1.0:  # every cost counts alike, so there is no tail to be thin
        return math.inf
    pooled = len(size) ** 2 / float((1.0 / size).sum())
    return tail_mass * (pooled if constraint.scope == "pooled" else float(size.mean()))
