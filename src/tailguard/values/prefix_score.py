"""Pessimistic scores of prefixes: bounds on reward and penalty from an ensemble of heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tailguard.risk import RiskMeasure, Threshold
from tailguard.scorers.pessimism import pessimistic, require_pessimism


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
            whose spread is unknown and not zero.
    """
    require_pessimism(pessimism)

    def score(hidden: Tensor) -> PrefixScore:
        prediction = heads.predict(hidden)
        # φ is applied per member and the bound taken after: φ of a bound would ignore the tail.
        penalty = prediction.expected_penalty(heads.thresholds, measure, threshold)
        return PrefixScore(
            reward_lower=pessimistic(prediction.reward, -pessimism),
            penalty_upper=pessimistic(penalty, pessimism),
        )

    return score
