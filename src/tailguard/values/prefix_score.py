"""Pessimistic scores: bounds from an ensemble, mean ∓ κ·std over its members.

Choosing the best of many noisy scores picks their errors; a score that subtracts its own doubt is
picked less for being wrong. κ is called ``pessimism``; std is the sample standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tailguard.errors import InputError
from tailguard.risk import RiskMeasure, Threshold


class PrefixScore(NamedTuple):
    """What prefixes promise, cautiously.

    Attributes:
        reward_lower: lower bound on the expected final reward [n].
        penalty_upper: upper bound on the expected final penalty E φ_ν(C) [n].
    """

    reward_lower: Float[Tensor, " n"]
    penalty_upper: Float[Tensor, " n"]


PrefixScorer = Callable[[Tensor], PrefixScore]
"""From the final hidden states of prefixes [n, hidden] to their scores."""


@runtime_checkable
class MemberPrediction(Protocol):
    """What heads say, member by member."""

    @property
    def reward(self) -> Tensor:
        """Expected final reward [n, members]."""
        ...

    def expected_penalty(
        self, thresholds_grid: Tensor, measure: RiskMeasure, threshold: Threshold
    ) -> Tensor:
        """E φ_ν(C) of the measure at ν = threshold, [n, members]."""
        ...


@runtime_checkable
class PrefixHeads(Protocol):
    """Process heads, as `tailguard.models` fits them."""

    @property
    def thresholds(self) -> Tensor:
        """The grid ν_1 < … < ν_J [J]."""
        ...

    def predict(self, hidden: Tensor) -> MemberPrediction:
        """Predictions for hidden states [n, hidden]."""
        ...


def pessimistic_scorer(
    heads: PrefixHeads, *, measure: RiskMeasure, threshold: Threshold, pessimism: float
) -> PrefixScorer:
    """Bounds on reward and penalty from process heads.

    Args:
        heads: fitted for the policy that is decoded from.
        measure: whose penalty is bounded.
        threshold: ν of the penalty.
        pessimism: κ ≥ 0.

    Raises:
        InputError: parameters out of range; when called, heads of a single member with κ > 0,
            whose doubt is unknown and not zero.
    """
    require_pessimism(pessimism)

    def score(hidden: Tensor) -> PrefixScore:
        prediction = heads.predict(hidden)
        penalty = prediction.expected_penalty(heads.thresholds, measure, threshold)
        return PrefixScore(
            ensemble_bound(prediction.reward, -pessimism), ensemble_bound(penalty, pessimism)
        )

    return score


def ensemble_bound(
    members: Float[Tensor, "n members"], num_deviations: float
) -> Float[Tensor, " n"]:
    """Mean + num_deviations·std over members.

    Raises:
        InputError: a single member and a number of deviations that is not 0.
    """
    mean = members.mean(dim=1)
    if num_deviations == 0.0:
        return mean
    if members.shape[1] < 2:
        raise InputError(
            "pessimism: needs an ensemble of at least 2 members; one member does not know its "
            "doubt. Fit an ensemble, or set pessimism to 0"
        )
    return mean + num_deviations * members.std(dim=1)


def require_pessimism(pessimism: float) -> None:
    """Raise `InputError` unless κ is finite and ≥ 0."""
    if not 0.0 <= pessimism < float("inf"):
        raise InputError(f"pessimism: {pessimism}; must be finite and ≥ 0")
