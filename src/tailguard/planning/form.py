"""A constraint with one threshold, written so that different measures can share dual curves."""

from dataclasses import dataclass

import numpy as np

from tailguard.planning.tilt import Matrix, Tilt, sample_penalty
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskMeasure


@dataclass(frozen=True)
class Form:
    """E φ_ν ≤ d written as E a_ν ≤ margin.

    For CVaR a_ν = max(c − ν, 0) and margin = α(d − ν): nothing in its dual curve knows α. Other
    measures have a_ν = φ_ν and margin = d.

    Attributes:
        measure: ρ with one threshold.
        scale: λ = scale × the multiplier of a.
        slope: κ, the most by which φ_ν falls as ν rises by one.
        atomic: whether some minimiser of E φ_ν is always among the costs.
    """

    measure: RiskMeasure
    scale: float
    slope: float
    atomic: bool

    def key(self, threshold: float) -> tuple[RiskMeasure | None, float]:
        """What may share a curve: all CVaRs at one threshold, or the same measure."""
        return (None if isinstance(self.measure, CVaR) else self.measure), threshold

    def penalty(self, tilt: Tilt, threshold: float) -> Matrix:
        """a_ν of every sample, averaged over raters."""
        if isinstance(self.measure, CVaR):
            return tilt.bank.average_raters(np.maximum(tilt.bank.cost - threshold, 0.0))
        return sample_penalty(tilt.bank, self.measure, threshold)

    def margin(self, threshold: float, budget: float, width: float = 0.0) -> float:
        """The right-hand side at ν; with a width, one that holds for all of [ν − width, ν].

        There φ ≥ φ_ν − κ·width, so every policy that meets the budget with some threshold of the
        interval has E a_ν within the widened margin.
        """
        offset = threshold if isinstance(self.measure, CVaR) else 0.0
        return self.scale * (budget - offset + self.slope * width)


def as_form(measure: RiskMeasure) -> Form:
    """The form of a measure with one threshold."""
    if isinstance(measure, CVaR):
        return Form(measure, scale=measure.tail_mass, slope=1.0, atomic=True)
    if isinstance(measure, MeanCVaR):
        return Form(measure, scale=1.0, slope=measure.weight, atomic=True)
    return Form(measure, scale=1.0, slope=1.0, atomic=False)


def sufficient_threshold(measure: RiskMeasure, budget: float, smallest_cost: float) -> float | None:
    """The one ν at which E φ_ν ≤ d says the same as ρ ≤ d, for measures that have such.

    The mean's penalty has no threshold, and the tail of α = 1 begins at the smallest cost. Entropic
    risk is at most d where E e^{θ(C−d)} ≤ 1, which is E φ_d ≤ d. All are linear in the policy, so
    the feasible set is convex.
    """
    if isinstance(measure, Entropic):
        return budget
    whole = isinstance(measure, CVaR | MeanCVaR) and measure.tail_mass == 1.0
    return smallest_cost if whole or isinstance(measure, Mean) else None
