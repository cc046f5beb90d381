"""The outer problem for one per-prompt constraint, E_x ρ(C|x) ≤ d: Lagrangian, then recovery.

λ is shared and ν(x) is chosen inside: G(λ) = E_x max_ν β·log E_ref exp((r − λφ_ν)/β) is convex, and
min_λ G(λ) + λd bounds every feasible policy. Non-convexity leaves a gap of about one prompt's jump,
so it shrinks as 1/prompts. A feasible policy is recovered by fixing the thresholds found on either
side of the minimum, exchanging them prompt by prompt, and solving the inner problem.
"""

import math
from bisect import insort
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64

from tailguard.planning.curve import DualCurve
from tailguard.planning.per_prompt.boxes import BoxSearch
from tailguard.planning.per_prompt.exchange import Exchange, PromptThresholds
from tailguard.planning.per_prompt.sorted_scan import SortedScan
from tailguard.planning.tilt import Tilt, sample_penalty
from tailguard.risk import RiskMeasure

_MAX_STEPS = 60  # evaluations of G; away from the edge brackets close after at most 10
_LARGEST = (
    1e9  # of the unit: a multiplier beyond which a budget counts as met by no threshold tried
)
_WORTH = 1e-4  # of the span: a duality gap worth closing


@dataclass(frozen=True)
class FoundByPrompt:
    """A feasible tilt with one threshold per prompt, and a bound on what any policy could reach.

    Where no tilt within the budget was found, ``value`` is −∞ and ``multiplier`` NaN.
    """

    threshold: PromptThresholds
    multiplier: float
    value: float
    bound: float


@dataclass(frozen=True)
class _Point:
    """The Lagrangian at one multiplier: G(λ) from above, and E φ at the thresholds chosen."""

    multiplier: float
    bound: float
    mean: float
    threshold: PromptThresholds

    def dual(self, budget: float) -> float:
        return self.bound + self.multiplier * budget


@dataclass
class PromptSearch:
    """Per-prompt constraints with one measure on one bank; points are kept for other budgets.

    Attributes:
        tilt: the tilt by the reward alone.
        measure: ρ.
        span: a scale for values.
        scale: a scale for costs.
        slack: how far below a budget a risk may stay, whatever that costs.
    """

    tilt: Tilt
    measure: RiskMeasure
    span: float
    scale: float
    slack: float
    _points: list[_Point] = field(default_factory=list[_Point])

    def __post_init__(self) -> None:
        measure, self._scan = self.measure, None
        if measure.hinge is not None and self.tilt.bank.rater_weight is None:
            self._scan = SortedScan(self.tilt, measure.hinge)
        self._boxes = BoxSearch(self.tilt, (measure,))
        self._unit = max(self.span, self.tilt.kl_coef) / self.scale
        self._exchange = Exchange(self.tilt, measure, self._best_thresholds, self._unit)
        self._evaluate(0.0, 0.0)

    def search(self, budget: float, start: PromptThresholds, tolerance: float) -> FoundByPrompt:
        """The best (λ, ν(x)) found for E_x ρ(C|x) ≤ d, with the dual bound.

        Args:
            budget: d.
            start: thresholds with which some policy on the bank meets the budget.
            tolerance: how closely the dual is minimised.
        """
        low, high = self._minimise(budget, tolerance)
        bound = min(point.dual(budget) for point in self._points)
        multiplier = (low if high is None else high).multiplier
        best = FoundByPrompt(start, math.nan, -math.inf, bound)
        # Either side of the dual's minimum: the true optimum mixes their thresholds prompt by prompt.
        for threshold in [start] if high is None else [high.threshold, low.threshold]:
            best = self._climb(threshold, budget, multiplier, best)
        # With the thresholds of least risk some tilt meets every budget that can be met.
        if best.value == -math.inf:
            best = self._climb(start, budget, multiplier, best)
        if multiplier > 0 and bound - best.value > _WORTH * self.span:
            starts = [best.threshold] if high is None else [best.threshold, high.threshold]
            for threshold in self._exchange.improve(starts, multiplier, budget):
                best = self._climb(threshold, budget, multiplier, best)
        return replace(best, bound=max(bound, best.value))

    def _minimise(self, budget: float, tolerance: float) -> tuple[_Point, _Point | None]:
        """Bracket the minimum of the dual: the last point over budget and the first within.

        The next multiplier is where the tangents at the two ends meet, which also bounds the
        minimum from below; every fourth is a bisection.
        """
        low, high = self._ends(budget)
        for step in range(_MAX_STEPS):
            if low.mean <= budget:  # already at λ = 0, which is then the minimum: no bracket
                return low, low
            if high is None:
                if low.multiplier > _LARGEST * self._unit:
                    break
                self._evaluate(4.0 * low.multiplier or self._unit, tolerance)
                low, high = self._ends(budget)
                continue
            width = high.multiplier - low.multiplier
            fall, rise = low.mean - budget, budget - high.mean
            drop = low.dual(budget) - high.dual(budget)
            meet = low.multiplier + min(max((drop + rise * width) / (fall + rise), 0.0), width)
            least = low.dual(budget) - fall * (meet - low.multiplier)
            closed = min(low.dual(budget), high.dual(budget)) - least <= tolerance
            if closed or width <= 1e-9 * high.multiplier:
                break
            inside = low.multiplier < meet < high.multiplier and step % 4 != 3
            self._evaluate(meet if inside else low.multiplier + 0.5 * width, tolerance)
            low, high = self._ends(budget)
        return low, high

    def _ends(self, budget: float) -> tuple[_Point, _Point | None]:
        """The last point over budget, or the first of all, and the first point within."""
        over = [p for p in self._points if p.mean > budget]
        within = [p for p in self._points if p.mean <= budget]
        return (over[-1] if over else self._points[0]), (within[0] if within else None)

    def _evaluate(self, multiplier: float, tolerance: float) -> None:
        """Add G and the thresholds that attain it at one multiplier."""
        top, threshold = self._maximise(multiplier, tolerance)
        penalty = sample_penalty(self.tilt.bank, self.measure, threshold)
        mean = self.tilt.moments(penalty, multiplier).mean
        point = _Point(multiplier, float(top.mean()), mean, threshold)
        insort(self._points, point, key=lambda p: p.multiplier)

    def _best_thresholds(self, multiplier: float) -> PromptThresholds:
        return self._maximise(multiplier, 1e-3 * self.span)[1]

    def _maximise(
        self, multiplier: float, tolerance: float
    ) -> tuple[Float64[np.ndarray, "prompts"], PromptThresholds]:
        """max_ν β·log E_ref exp((r − λφ_ν)/β) of each prompt, from above, and the ν."""
        if self._scan is not None:
            return self._scan.best(multiplier)
        near = min(self._points, key=lambda p: abs(p.multiplier - multiplier), default=None)
        start = None if near is None else near.threshold.reshape(len(near.threshold), -1)
        found = self._boxes.best(np.array([multiplier]), tolerance, start)
        shape = (len(found.thresholds), *self.measure.threshold_shape)
        return found.bound, found.thresholds.reshape(shape)

    def _climb(
        self, threshold: PromptThresholds, budget: float, guess: float, best: FoundByPrompt
    ) -> FoundByPrompt:
        """Alternate the exact inner solution with ν(x) ← its minimiser: the value never falls."""
        bank, guess = self.tilt.bank, guess or self.tilt.kl_coef / self.scale
        last = -math.inf
        for _ in range(20):
            penalty = sample_penalty(bank, self.measure, threshold)
            curve = DualCurve(self.tilt, lambda a=penalty: a)
            point = curve.solve(budget, 1e-9 * self.span, guess, self.slack)
            # Written so that a NaN ends the climb too.
            if point is None or not point.primal() > last + 1e-7 * self.span:
                break
            last = point.primal()
            if last > best.value:
                best = FoundByPrompt(threshold, point.multiplier, last, best.bound)
            weights, _ = self.tilt.weights(point.multiplier * penalty)
            threshold = self.measure.threshold_rows(bank.row_costs(), bank.row_weights(weights))
        return best
