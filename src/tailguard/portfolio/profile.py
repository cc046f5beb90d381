"""What a user asks for, and how much it counts among what others ask for."""

import math
from dataclasses import dataclass

from tailguard.errors import InputError
from tailguard.risk import RiskLimit, RiskMeasure


@dataclass(frozen=True, init=False)
class Profile:
    """A risk preference: a limit, pooled over prompts, samples and raters, and its weight.

    Attributes:
        limit: ρ(C) ≤ d.
        weight: how much this profile counts among others.

    Raises:
        InputError: a budget that is no number, or a weight that is negative or not finite.
    """

    limit: RiskLimit
    weight: float

    def __init__(
        self, measure: RiskMeasure, budget: float | int, weight: float | int = 1.0
    ) -> None:
        """From the measure ρ and the budget d."""
        object.__setattr__(self, "limit", RiskLimit(measure, budget))
        object.__setattr__(self, "weight", float(weight))
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"weight must be ≥ 0 and finite, got {self.weight}")

    @property
    def measure(self) -> RiskMeasure:
        """ρ."""
        return self.limit.measure

    @property
    def budget(self) -> float:
        """The limit's d."""
        return float(self.limit.budget)
