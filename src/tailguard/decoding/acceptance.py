"""Acceptance: the rule that serves or withholds, what is said then, and how its level is chosen.

Calibration and serving both call `accepted`. A certificate holds for exactly this rule: a second
spelling of it that differed at one edge (an infinite level, a bound that is NaN) would certify
another decoder than the one that answers.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float

from tailguard.errors import InputError
from tailguard.risk import (
    RiskMeasure,
    SmallTailWarning,
    Threshold,
    as_threshold,
    risk_upper_bound,
)

DEFAULT_FALLBACK = "I am sorry, but I cannot help with that."
"""Served on abstention where no text of the decoder's own is known; recipes have the same."""

SCORE_UNAVAILABLE = "score unavailable"
"""Reason of an abstention where a scorer, a head or the model gave no finite number."""

_MOST_LEVELS = 100  # beyond that, levels differ by less than chance tells apart


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What the rule may look at, answer by answer.

    A rule that wants more to go by gets another field here, filled by `answer.verdicts_of`.

    Attributes:
        bound: upper bound on the cost, mean + κ·spread; +inf where there is no score [n].
        spread: of the cost over the ensemble's members; NaN where unknown [n].
    """

    bound: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class AcceptanceChoice:
    """An acceptance level and what it did on the prompts that it was chosen on.

    Attributes:
        level: answers whose upper bound on cost is above it are withheld.
        threshold: ν, the measure's minimiser on what was served: for the certificate.
        smallest_cost: the smallest that was served; certificates count smaller ones as this much.
        risk: risk of what was served, fallbacks included.
        expected_bound: what had to be within the budget: the risk, or the certificate to be
            expected, each with a margin for chance.
        acceptance_rate: share of answers accepted.
        met: whether it was; else what came nearest was taken, or nothing is accepted where no level
            can be bounded at all.
    """

    level: float
    threshold: Threshold
    smallest_cost: float
    risk: float
    expected_bound: float
    acceptance_rate: float
    met: bool


def choose_acceptance_level(
    costs: Float[np.ndarray, " n"],
    verdicts: Verdicts,
    fallback_costs: Float[np.ndarray, " n"],
    *,
    measure: RiskMeasure,
    budget: float,
    largest_cost: float,
    confidence: float = 0.95,
    num_certification: int | None = None,
) -> AcceptanceChoice:
    """Choose the level on calibration prompts, one answer per prompt.

    The level is per answer while the budget is on the pooled tail, so it is chosen by what the
    served mixture of answers and fallbacks risks, not set to the budget. It is the loosest one
    whose risk, or whose expected certificate, meets the budget with a margin for chance; where no
    level's does, the one that comes nearest; where nothing can be bounded, the level that accepts
    nothing. So a stricter budget never has a looser level.

    Args:
        costs: of the answers that would be served with no level.
        verdicts: on those answers, which the rule compares with the level.
        fallback_costs: of the fallback as the answer to the same prompts.
        measure: ρ.
        budget: d.
        largest_cost: declared.
        confidence: that the budget is met on fresh prompts, and of the certificate.
        num_certification: prompts that the certificate will rest on; None to go by the risk
            itself, as where there are too few of them to certify what is asked.

    Raises:
        InputError: arrays of different lengths, or a NaN.
    """
    # NaN is refused rather than counted as withheld: a missing cost is a mistake upstream.
    arrays = {"costs": costs, "bounds": verdicts.bound, "fallback_costs": fallback_costs}
    for name, array in arrays.items():
        if array.shape != costs.shape or costs.ndim != 1 or costs.size == 0:
            raise InputError(f"{name}: shape {array.shape}; all must be 1-D and as long as costs")
        if np.isnan(array).any():
            raise InputError(f"{name}: holds NaN; an answer that has no score is never served")
    answers = _Answers(costs, verdicts, fallback_costs)
    margin_of = _Margin(answers, measure, largest_cost, confidence, num_certification)
    choices = [_choice(level, answers, measure) for level in _levels(verdicts.bound)]
    for choice in reversed(choices):  # from the loosest, and no further than needed
        if choice.risk <= budget and (found := margin_of.added(choice)).expected_bound <= budget:
            return replace(found, met=True)
    # Nothing meets the budget: take what comes nearest, and say so by `met`.
    bounded = [margin_of.added(choice) for choice in choices]
    # Bounds end at the declared largest cost, so that many may be equal there: the risk decides.
    nearest = min((choice.expected_bound, choice.risk) for choice in bounded)
    if not math.isfinite(nearest[0]):
        return bounded[0]  # all are equally unknown: the strictest, for the loosest would fail open
    return next(c for c in reversed(bounded) if (c.expected_bound, c.risk) == nearest)


def accepted(verdicts: Verdicts, level: float) -> Bool[np.ndarray, " n"]:
    """The rule: which answers are served. Those whose upper bound is finite and within the level.

    Bounds of answers without a score are +inf, so that no level serves them, not even +inf.
    """
    return np.isfinite(verdicts.bound) & (verdicts.bound <= level)


def reasons_withheld(verdicts: Verdicts, level: float) -> list[str]:
    """Why each answer is withheld, where `accepted` does not serve it."""
    return [
        f"upper bound on cost {bound:.4g} is above the acceptance level {level:.4g}"
        if math.isfinite(bound)
        else SCORE_UNAVAILABLE
        for bound in verdicts.bound.tolist()
    ]


def certified_risk(
    costs: Float[np.ndarray, " n"],
    measure: RiskMeasure,
    choice: AcceptanceChoice,
    *,
    largest_cost: float,
    confidence: float,
) -> float:
    """Upper confidence bound on the risk of what is served, on prompts that chose nothing.

    Costs below the smallest one of calibration are raised to it. That only raises E φ_ν, so the
    bound holds; and it gives the penalty of measures that go on falling (the mean's) the finite
    range without which nothing could be certified.

    Args:
        costs: of what is served, fallbacks included [n].
        measure: ρ.
        choice: made on other prompts; its threshold and smallest cost are used.
        largest_cost: declared.
        confidence: in [.5, 1).
    """
    return risk_upper_bound(
        np.maximum(costs, choice.smallest_cost),
        measure,
        choice.threshold,
        lower=choice.smallest_cost,
        upper=largest_cost,
        confidence=confidence,
    )


def _levels(bounds: np.ndarray) -> list[float]:
    """Levels that tell the answers apart, from none accepted to all."""
    finite = bounds[np.isfinite(bounds)]
    if finite.size == 0:
        return [-np.inf]
    # method="higher": each level is one of the bounds, and none falls between two answers.
    shares = np.linspace(0.0, 1.0, _MOST_LEVELS)
    return [-np.inf, *np.unique(np.quantile(finite, shares, method="higher")).tolist()]


@dataclass(frozen=True, eq=False)
class _Answers:
    """The calibration answers, and the fallback in place of each."""

    costs: np.ndarray
    verdicts: Verdicts
    fallback_costs: np.ndarray

    def served(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Costs of what is served at a level, and which answers are not withheld."""
        keep = accepted(self.verdicts, level)
        return np.where(keep, self.costs, self.fallback_costs), keep


def _choice(level: float, answers: _Answers, measure: RiskMeasure) -> AcceptanceChoice:
    served, keep = answers.served(level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTailWarning)  # the bound says how little is known
        risk = measure.value(served)
    # The certificate needs a ν that was fixed beforehand: this one, from calibration prompts.
    threshold = as_threshold(measure.minimiser(served))
    return AcceptanceChoice(
        level=level,
        threshold=threshold,
        smallest_cost=float(served.min()),
        risk=risk,
        expected_bound=math.inf,
        acceptance_rate=float(keep.mean()),
        met=False,
    )


@dataclass(frozen=True)
class _Margin:
    """What is added to a risk before it is compared with the budget."""

    answers: _Answers
    measure: RiskMeasure
    largest_cost: float
    confidence: float
    num_certification: int | None

    def added(self, choice: AcceptanceChoice) -> AcceptanceChoice:
        """The choice with its expected bound.

        By how much samples of these sizes differ by chance is added to the risk, or to the
        certificate that these answers, over and over, would get.
        """
        served, _ = self.answers.served(choice.level)
        bound, spread = choice.risk, 1.0 / served.size
        if self.num_certification is not None:
            # As many as will certify, because the bound depends on how many there are; drawn in a
            # fixed order, because the choice must be the same each time it is made.
            shuffled = np.random.default_rng(0).permutation(served)
            bound = certified_risk(
                np.resize(shuffled, self.num_certification),
                self.measure,
                choice,
                largest_cost=self.largest_cost,
                confidence=self.confidence,
            )
            spread += 1.0 / self.num_certification
        # The penalty φ, not the cost: its mean is what the risk is, at the best threshold.
        deviation = float(np.std(self.measure.penalty(served, choice.threshold)))
        if served.size == 1:
            return replace(choice, expected_bound=math.inf)  # the spread of one answer is unknown
        margin = NormalDist().inv_cdf(self.confidence) * deviation * math.sqrt(spread)
        # Never below the risk itself, which the budget is compared with too: where fewer certify
        # than were served, they may happen to be the harmless ones.
        return replace(choice, expected_bound=max(choice.risk, bound + margin))
