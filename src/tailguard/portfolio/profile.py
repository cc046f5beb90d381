"""What a user asks for: how much risk, and how it is measured."""

import math
from dataclasses import dataclass

from tailguard.errors import InputError
from tailguard.risk import RiskMeasure


@dataclass(frozen=True)
class Profile:
    """A risk preference: ρ(C) ≤ d, pooled over prompts, samples and raters.

    Attributes:
        measure: ρ.
        budget: d.
        weight: how much this profile counts among others.

    Raises:
        InputError: a budget that is no number, or a weight that is negative or not finite.
    """

    measure: RiskMeasure
    budget: float | int
    weight: float | int = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", float(self.budget))
        object.__setattr__(self, "weight", float(self.weight))
        if not callable(getattr(self.measure, "penalty", None)):
            raise InputError(
                f"measure must be a risk measure such as CVaR(0.1), got {self.measure!r}"
            )
        if math.isnan(self.budget) or self.budget == -math.inf:
            raise InputError(f"budget must be a number, got {self.budget}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"weight must be ≥ 0 and finite, got {self.weight}")
