"""The outer problem for one pooled constraint: a certified global search over the threshold.

CVaR is concave in the distribution, so {π : ρ(C) ≤ d} is not convex: it is the union over ν of the
convex sets {π : E φ_ν(C) ≤ d}. For an interval of thresholds the dual at its upper end, with the
margin widened by what φ can rise over the interval, bounds every policy of the interval. Best-first
branch and bound on such intervals ends with a value and a bound that differ by the tolerance,
whatever the shape of the problem.
"""

import heapq
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from tailguard.planning.curve import DualCurve
from tailguard.planning.tilt import Matrix, Tilt, sample_penalty
from tailguard.risk import RiskMeasure

CurveKey = tuple[RiskMeasure | None, float]
# Fewer make the first bounds loose, more cost curves that pruning would spare.
_FIRST_INTERVALS = 24
_SMOOTH_CANDIDATES = 4097  # the bound is loose by about λκ times their spacing
_BISECTIONS = 60
_SHARE = 2e-3  # of the constraint's own price: a bound that is tight enough
_POLISH = 1e-9  # allowed duality gap of what is returned, in spans


@dataclass(frozen=True)
class Found:
    """A feasible tilt, and a bound on what any policy could reach.

    Attributes:
        threshold: ν.
        multiplier: λ.
        value: E r − β·KL of the tilt.
        bound: no feasible policy on the bank has a larger value.
    """

    threshold: float
    multiplier: float
    value: float
    bound: float


@dataclass
class _Incumbent:
    """The best feasible tilt so far, and the largest bound among the intervals given up."""

    value: float = -math.inf
    threshold: float = math.nan
    pruned: float = -math.inf


@dataclass(frozen=True)
class Form:
    """E φ_ν ≤ d written as E a_ν ≤ margin.

    For CVaR a_ν = max(c − ν, 0) and margin = α(d − ν): its dual curve does not depend on α. Other
    measures have a_ν = φ_ν and margin = d.

    Attributes:
        measure: ρ with one threshold.
        tail_mass: α where the penalty is nothing but a hinge; None for any other law.
    """

    measure: RiskMeasure
    tail_mass: float | None

    @property
    def scale(self) -> float:
        """λ = scale × the multiplier of a."""
        return 1.0 if self.tail_mass is None else self.tail_mass

    def key(self, threshold: float) -> CurveKey:
        """What may share a curve: all CVaRs at one threshold, or the same measure."""
        return (self.measure if self.tail_mass is None else None), threshold

    def penalty(self, tilt: Tilt, threshold: float) -> Matrix:
        """a_ν of every sample, averaged over raters."""
        if self.tail_mass is not None:
            return tilt.bank.average_raters(np.maximum(tilt.bank.cost - threshold, 0.0))
        return sample_penalty(tilt.bank, self.measure, threshold)

    def margin(self, threshold: float, budget: float, width: float = 0.0) -> float:
        """The right-hand side at ν; with a width, one that holds for all of [ν − width, ν].

        φ rises by at most κ as ν rises by one, so φ ≥ φ_ν − κ·width on the interval, and every
        policy that meets the budget with one of its thresholds has E a_ν within the widened margin.
        """
        offset = 0.0 if self.tail_mass is None else threshold
        return self.scale * (budget - offset + float(self.measure.slopes[0]) * width)


@dataclass
class PooledSearch:
    """Searches over ν for pooled constraints on one bank; every curve is kept for the next search.

    Attributes:
        tilt: the tilt by the reward alone.
        span: a scale for values, the worth of the whole trade.
        scale: a scale for costs.
        slack: how far below a budget a risk may stay, whatever that costs.
    """

    tilt: Tilt
    span: float
    scale: float
    slack: float
    _curves: dict[CurveKey, DualCurve] = field(default_factory=dict[CurveKey, DualCurve])
    _guess: float | None = None

    def search(
        self, measure: RiskMeasure, budget: float, starts: list[float], tolerance: float
    ) -> Found | None:
        """The best (λ, ν) for ρ(C) ≤ d; None where no threshold tried has a tilt within it.

        Args:
            measure: ρ with one threshold.
            budget: d.
            starts: thresholds to try first; with one of them some policy meets the budget.
            tolerance: how far the bound may lie above the value.
        """
        form = as_form(measure)
        # One linear constraint is equivalent: the problem is convex and there is nothing to search.
        only = measure.sufficient_threshold(budget, float(self._atoms[0]))
        if only is not None:
            return self._finish(form, budget, _Incumbent(threshold=only))
        best = _Incumbent()
        for start in starts:
            self._climb(form, budget, start, best)
        free = self.tilt.free_value
        tolerance = min(tolerance, max(0.3 * tolerance, _SHARE * (free - best.value)))
        candidates = self._candidates(form, budget)
        heap = self._first_intervals(candidates)
        while heap and -heap[0][0] > best.value + tolerance:
            known, first, last = heapq.heappop(heap)
            bound = self._visit(form, budget, candidates, (first, last), best, tolerance)
            bound = min(bound, -known)  # what holds for the parent interval holds for its half
            if first == last or bound <= best.value + tolerance:
                best.pruned = max(best.pruned, bound)
                continue
            middle = (first + last) // 2
            heapq.heappush(heap, (-bound, first, middle))
            heapq.heappush(heap, (-bound, middle + 1, last))
        best.pruned = max(best.pruned, -heap[0][0] if heap else -math.inf)
        return self._finish(form, budget, best)

    def _visit(
        self,
        form: Form,
        budget: float,
        candidates: Float64[np.ndarray, "candidates"],
        interval: tuple[int, int],
        best: _Incumbent,
        tolerance: float,
    ) -> float:
        """Bound the interval, and try its upper end as a threshold."""
        first, last = interval
        threshold = float(candidates[last])
        # A minimiser among the costs cannot lie between two candidates; another may, so its interval
        # reaches down to the neighbour.
        below = first if form.measure.minimiser_is_a_cost else max(first - 1, 0)
        wide = form.margin(threshold, budget, threshold - float(candidates[below]))
        curve = self._curve(form, threshold)
        guess = self._guess or self.tilt.kl_coef / self.scale
        slack = form.scale * self.slack
        curve.solve(wide, 0.25 * tolerance, guess, slack, stop_below=best.value + tolerance)
        bound = curve.upper(wide)
        if bound > best.value + tolerance:
            margin = form.margin(threshold, budget)
            point = curve.solve(margin, 0.25 * tolerance, guess, slack, stop_below=best.value)
            if point is not None and point.primal() > best.value:
                self._climb(form, budget, threshold, best)
        return bound

    def _climb(self, form: Form, budget: float, threshold: float, best: _Incumbent) -> None:
        """Alternate the exact inner solution with ν ← its minimiser: the value never falls."""
        bank = self.tilt.bank
        for _ in range(8):
            curve = self._curve(form, threshold)
            guess = self._guess or self.tilt.kl_coef / self.scale
            margin, slack = form.margin(threshold, budget), form.scale * self.slack
            point = curve.solve(margin, 1e-6 * self.span, guess, slack)
            # Written so that a NaN ends the climb too.
            if point is None or not point.primal() > best.value + 1e-7 * self.span:
                return
            best.value, best.threshold = point.primal(), threshold
            self._guess = point.multiplier or None
            weights, _ = self.tilt.weights(point.multiplier * form.penalty(self.tilt, threshold))
            flat = bank.row_weights(weights).ravel()
            threshold = float(form.measure.minimiser(bank.row_costs().ravel(), flat))

    def _finish(self, form: Form, budget: float, best: _Incumbent) -> Found | None:
        """Solve once more at the chosen threshold, to full precision."""
        if math.isnan(best.threshold):
            return None
        guess = self._guess or self.tilt.kl_coef / self.scale
        margin = form.margin(best.threshold, budget)
        curve, slack = self._curve(form, best.threshold), form.scale * self.slack
        point = curve.solve(margin, _POLISH * self.span, guess, slack)
        if point is None:
            return None
        bound = max(best.pruned, point.dual(margin))
        return Found(best.threshold, form.scale * point.multiplier, point.primal(), bound)

    def _curve(self, form: Form, threshold: float) -> DualCurve:
        key = form.key(threshold)
        if key not in self._curves:
            self._curves[key] = DualCurve(self.tilt, lambda: form.penalty(self.tilt, threshold))
        return self._curves[key]

    @cached_property
    def _atoms(self) -> Float64[np.ndarray, "atoms"]:
        bank = self.tilt.bank
        costs = bank.cost if bank.present is None else bank.cost[bank.present]
        return np.unique(np.asarray(costs, dtype=np.float64))

    def _candidates(self, form: Form, budget: float) -> Float64[np.ndarray, "candidates"]:
        """Ascending thresholds: the costs, or a fine grid where the minimiser may lie between.

        The grid ends where no policy can meet the budget any more: φ_ν(c) is at least φ_ν of the
        smallest cost, which does not fall as ν rises beyond that cost. Without the cut, one cost of
        1e8 would leave a single candidate among all other costs.
        """
        if form.measure.minimiser_is_a_cost:
            return self._atoms
        first, last = float(self._atoms[0]), float(self._atoms[-1])
        useful = first
        for _ in range(_BISECTIONS):
            if form.measure.penalty(first, last) <= budget:
                break
            middle = 0.5 * (useful + last)
            inside = form.measure.penalty(first, middle) <= budget
            useful, last = (middle, last) if inside else (useful, middle)
        return np.linspace(first, last, _SMOOTH_CANDIDATES)

    def _first_intervals(
        self, candidates: Float64[np.ndarray, "candidates"]
    ) -> list[tuple[float, int, int]]:
        """A heap of intervals with equally many candidates, nothing known of them yet."""
        edges = np.linspace(0, len(candidates), _FIRST_INTERVALS + 1).astype(int)
        pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        return [(-math.inf, first, end - 1) for first, end in pairs if end > first]


def as_form(measure: RiskMeasure) -> Form:
    """The form of a measure with one threshold."""
    weight, tail_mass = measure.hinge or (0.0, None)
    return Form(measure, tail_mass if weight == 1.0 else None)
