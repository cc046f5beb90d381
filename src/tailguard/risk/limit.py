"""A limit on risk: a measure of the cost, how much of it is accepted, and which randomness is meant."""

import math
from dataclasses import dataclass
from typing import Literal

from tailguard.errors import InputError
from tailguard.risk.measure import RiskMeasure

Scope = Literal["pooled", "per_prompt"]


@dataclass(frozen=True)
class RiskLimit:
    """ρ(C) ≤ d. Planning's interface calls it ``RiskConstraint``.

    What recipes, plans, portfolios, requests and calibrated decoders have; how it is written in
    files and on the command line stands in ``spelling``.

    Attributes:
        measure: ρ.
        budget: d, in units of cost; +∞ asks for nothing.
        scope: "pooled": C varies over prompts, samples and raters together. "per_prompt": over
            samples and raters, and the risk is averaged over prompts, E_x ρ(C|x).

    Raises:
        InputError: the budget is NaN or −∞, the scope unknown, or the measure none.
    """

    measure: RiskMeasure
    budget: float | int
    scope: Scope = "pooled"

    def __post_init__(self) -> None:
        # The usual slip is a budget in the measure's place, or a class instead of CVaR(0.1).
        if not callable(getattr(self.measure, "penalty", None)):
            raise InputError(
                f"measure must be a risk measure such as CVaR(0.1), got {self.measure!r}"
            )
        object.__setattr__(self, "budget", float(self.budget))
        if math.isnan(self.budget) or self.budget == -math.inf:
            raise InputError(f"budget must be a number, got {self.budget}")
        if self.scope not in ("pooled", "per_prompt"):
            raise InputError(f'scope must be "pooled" or "per_prompt", got {self.scope!r}')


@dataclass(frozen=True)
class RaterLimit(RiskLimit):
    """A limit on the risk to one of a bank's raters: a limit for each is a list of these.

    Attributes:
        rater: its column of the costs; None for all raters by their weights, as `RiskLimit`.
    """

    rater: int | None = None
