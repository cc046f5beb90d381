"""Decoding settings, and the calibrated profiles that a request is matched with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tailguard.errors import InfeasibleError, InputError
from tailguard.risk import RiskLimit, Threshold
from tailguard.risk.spelling import describe_limit
from tailguard.scorers.pessimism import require_pessimism


@dataclass(frozen=True)
class DecodingSetting:
    """How answers to one profile are found and when they are served.

    Attributes:
        limit: what the answers are to keep.
        policy: name of the policy that is decoded from.
        multiplier: λ′ of the decoding plan, made on that policy's own bank.
        threshold: ν′ of that plan; one per CVaR for a spectral measure.
        pessimism: κ, standard deviations of doubt that scores are charged with.
        acceptance_level: answers whose upper bound on cost is above it are withheld. Per answer;
            not the budget.
        max_candidates: K.
        block_tokens: L.
        max_new_tokens: the most tokens an answer.
        temperature: of the sampling law.
        fallback: served in place of what is withheld.
        top_p: nucleus of the sampling law.
    """

    limit: RiskLimit
    policy: str
    multiplier: float
    threshold: Threshold
    pessimism: float
    acceptance_level: float
    max_candidates: int
    block_tokens: int
    max_new_tokens: int
    temperature: float
    fallback: str
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what can only be a mistake; the parts check the rest."""
        require_pessimism(self.pessimism)
        if math.isnan(self.acceptance_level):
            raise InputError("acceptance_level: NaN; give a number")
        if not self.fallback.strip():
            raise InputError("fallback: empty; give the text that is served on abstention")


@dataclass(frozen=True)
class Certificate:
    """A bound on the risk of what is served, abstentions included, on held-out prompts.

    Attributes:
        risk_upper_bound: upper confidence bound on the measure.
        confidence: its coverage.
        num_prompts: held-out prompts it rests on.
        strategy: how the answers were drawn, by `strategy.strategy_name`.
    """

    risk_upper_bound: float
    confidence: float
    num_prompts: int
    # Files that do not say are older than the choice.
    strategy: str = "tailguard.decoding.strategy.draw_once"


@dataclass(frozen=True)
class CalibratedProfile:
    """A point of the calibrated grid.

    Attributes:
        setting: how it is decoded, and under which limit.
        certificate: None where none was made.
    """

    setting: DecodingSetting
    certificate: Certificate | None = None

    @property
    def limit(self) -> RiskLimit:
        """What its answers are to keep."""
        return self.setting.limit

    def covers(self, budget: float, strategy: str) -> bool:
        """Whether the certificate, if any, shows that answers drawn like this meet the budget."""
        found = self.certificate
        return found is not None and found.strategy == strategy and found.risk_upper_bound <= budget


def match_profile(profiles: Sequence[CalibratedProfile], asked: RiskLimit) -> CalibratedProfile:
    """The loosest calibrated profile that is at least as strict as what is asked.

    At least as strict: its measure dominates the one asked for (`RiskMeasure.dominates`: the same,
    CVaR at a smaller tail mass, any measure where the mean is asked for) and its budget is no
    larger. Loosest: the largest tail mass, then the largest budget.

    Raises:
        InfeasibleError: none is as strict; tells the smallest budget that is calibrated under such
            a measure (infinite where there is none).
    """
    strict = [p for p in profiles if p.limit.measure.dominates(asked.measure)]
    meeting = [p for p in strict if p.limit.budget <= asked.budget]
    if meeting:
        return max(meeting, key=lambda p: (p.limit.measure.smallest_tail, p.limit.budget))
    smallest = min((p.limit.budget for p in strict), default=math.inf)
    if strict:
        hint = f"the smallest budget calibrated under such a measure is {smallest:g}"
    else:
        known = "; ".join(dict.fromkeys(describe_limit(p.limit) for p in profiles))
        hint = f"calibrated: {known}"
    told = describe_limit(asked)
    raise InfeasibleError(f"no calibrated profile is as strict as {told}; {hint}", smallest)
