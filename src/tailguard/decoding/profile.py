"""Decoding settings, and the calibrated profiles that a request is matched with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tailguard.errors import InfeasibleError, InputError
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskMeasure
from tailguard.scorers.pessimism import require_pessimism


@dataclass(frozen=True)
class DecodingSetting:
    """How answers to one profile are found and when they are served.

    Attributes:
        policy: name of the policy that is decoded from.
        multiplier: λ′ of the decoding plan, made on that policy's own bank.
        threshold: ν′ of that plan.
        tail_mass: α of the penalty.
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

    policy: str
    multiplier: float
    threshold: float
    tail_mass: float
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
    """

    risk_upper_bound: float
    confidence: float
    num_prompts: int


@dataclass(frozen=True)
class CalibratedProfile:
    """A point of the calibrated grid.

    Attributes:
        measure_name: as `name_measure` gives it: ``mean``, ``cvar``, ``mean-cvar:κ``,
            ``entropic:θ``.
        tail_mass: α; 1 for the mean.
        budget: d.
        setting: how it is decoded.
        certificate: None where none was made.
    """

    measure_name: str
    tail_mass: float
    budget: float
    setting: DecodingSetting
    certificate: Certificate | None = None

    def covers(self, budget: float) -> bool:
        """Whether the certificate, if any, shows that the budget is met."""
        return self.certificate is not None and self.certificate.risk_upper_bound <= budget


def match_profile(
    profiles: Sequence[CalibratedProfile], measure_name: str, tail_mass: float, budget: float
) -> CalibratedProfile:
    """The next stricter calibrated profile: same measure, tail mass and budget no larger.

    Among those, the largest tail mass, then the largest budget. The mean is the CVaR of tail mass
    1, which a smaller one bounds, so CVaR profiles serve requests for the mean.

    Raises:
        InfeasibleError: none is as strict; tells the smallest risk reachable at such a tail mass
            (infinite where none is calibrated there).
        InputError: tail mass outside (0, 1] or a NaN budget.
    """
    if not 0.0 < tail_mass <= 1.0:
        raise InputError(f"tail_mass: {tail_mass}; must lie in (0, 1]")
    if math.isnan(budget):
        raise InputError("budget: NaN; give a number")
    family, tail_mass = _family(measure_name, tail_mass)
    same: list[tuple[float, CalibratedProfile]] = []
    for profile in profiles:
        other, mass = _family(profile.measure_name, profile.tail_mass)
        if other == family:
            same.append((mass, profile))
    tight = [(mass, profile) for mass, profile in same if mass <= tail_mass]
    meeting = [(mass, profile) for mass, profile in tight if profile.budget <= budget]
    if meeting:
        return max(meeting, key=lambda pair: (pair[0], pair[1].budget))[1]
    smallest = min((profile.budget for _, profile in tight), default=math.inf)
    asked = f"{measure_name} with tail_mass={tail_mass:g} and budget={budget:g}"
    if tight:
        hint = f"the smallest calibrated budget at such a tail mass is {smallest:g}"
    elif same:
        mass, least = min((mass, profile.budget) for mass, profile in same)
        hint = f"the smallest calibrated tail mass is {mass:g}, with budgets from {least:g}"
    else:
        known = ", ".join(sorted({profile.measure_name for profile in profiles})) or "none"
        hint = f"calibrated measures: {known}"
    raise InfeasibleError(f"no calibrated profile is as strict as {asked}; {hint}", smallest)


def _family(measure_name: str, tail_mass: float) -> tuple[str, float]:
    return ("cvar", 1.0) if measure_name == "mean" else (measure_name, tail_mass)


def name_measure(measure: RiskMeasure) -> tuple[str, float]:
    """A measure's name on the calibrated grid and its tail mass (1 where it has none).

    Parameters other than the tail mass are part of the name, so that they must match exactly.

    Raises:
        InputError: a measure the grid has no name for.
    """
    match measure:
        case Mean():
            return "mean", 1.0
        case CVaR():
            return "cvar", float(measure.tail_mass)
        case MeanCVaR():
            return f"mean-cvar:{float(measure.weight):g}", float(measure.tail_mass)
        case Entropic():
            return f"entropic:{float(measure.theta):g}", 1.0
        case _:
            raise InputError(
                f"measure: {measure!r}; decoders are calibrated for Mean, CVaR, MeanCVaR, Entropic"
            )
