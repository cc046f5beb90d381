"""Pessimism: an ensemble's scores read as mean + κ·spread, here and nowhere else.

Choosing the best of many noisy scores picks their errors. A cost that adds its own uncertainty, or
a reward that subtracts it, is chosen less often for being wrong. Training, planning, decoding and
certificates all read scorers through this module: where two of them disagreed, a budget that was
planned in one unit would be certified in another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError
from tailguard.scorers.doubt import error_doubt
from tailguard.scorers.readings import per_rater, raters_of, read_answers
from tailguard.scorers.scorer import Scorer, require_finite, require_members


def require_pessimism(pessimism: float) -> None:
    """Raise `InputError` unless κ is finite and ≥ 0."""
    if not 0.0 <= pessimism < float("inf"):
        raise InputError(f"pessimism: {pessimism}; must be finite and ≥ 0")


@overload
def spread(members: Float[np.ndarray, "n members"]) -> Float[np.ndarray, " n"]: ...
@overload
def spread(members: Float[Tensor, "n members"]) -> Float[Tensor, " n"]: ...
def spread(
    members: Float[np.ndarray, "n members"] | Float[Tensor, "n members"],
) -> Float[np.ndarray, " n"] | Float[Tensor, " n"]:
    """Sample standard deviation over members; NaN for a single member, whose spread is unknown.

    Members are a sample of the scorers that the data could have given, so the divisor is n − 1.
    With n, an ensemble of two would understate its uncertainty by a factor of √2.
    """
    if members.shape[1] == 1:
        return members[:, 0] * float("nan")  # never 0: that would read as certainty
    if isinstance(members, Tensor):
        return members.std(dim=1, correction=1)
    return np.asarray(members.std(axis=1, ddof=1))


@overload
def pessimistic(
    members: Float[np.ndarray, "n members"], pessimism: float
) -> Float[np.ndarray, " n"]: ...
@overload
def pessimistic(members: Float[Tensor, "n members"], pessimism: float) -> Float[Tensor, " n"]: ...
def pessimistic(
    members: Float[np.ndarray, "n members"] | Float[Tensor, "n members"], pessimism: float
) -> Float[np.ndarray, " n"] | Float[Tensor, " n"]:
    """Mean + κ·spread over members: an upper bound on a cost, with κ < 0 a lower one on a reward.

    Args:
        members: scores, one column per member.
        pessimism: κ; 0 gives the mean.

    Raises:
        InputError: a single member and κ ≠ 0.
    """
    if isinstance(members, Tensor):  # twice the same line, for two libraries' types
        mean = members.mean(dim=1)
        return mean if pessimism == 0.0 else mean + pessimism * _known_spread(members, pessimism)
    average: Float[np.ndarray, " n"] = np.asarray(members.mean(axis=1))
    if pessimism == 0.0:
        return average
    return average + pessimism * _known_spread(members, pessimism)


def pessimistic_to_raters(
    by_rater: Float[np.ndarray, "n members raters"], pessimism: float
) -> Float[np.ndarray, "n raters"]:
    """The same to each rater; errors as `pessimistic`."""
    num, _, raters = by_rater.shape
    return pessimistic(per_rater(by_rater), pessimism).reshape(num, raters)


@overload
def _known_spread(members: np.ndarray, pessimism: float) -> np.ndarray: ...
@overload
def _known_spread(members: Tensor, pessimism: float) -> Tensor: ...
def _known_spread(members: np.ndarray | Tensor, pessimism: float) -> np.ndarray | Tensor:
    if members.shape[1] == 1:
        raise InputError(
            f"pessimism: {abs(pessimism):g} needs at least 2 members, because the spread of a"
            " single one is unknown; fit an ensemble, or set pessimism to 0"
        )
    return spread(members)


@dataclass(frozen=True)
class PessimisticCost:
    """A cost ensemble read by its upper bound: mean + pessimism · spread, clipped at the bound.

    Attributes:
        scorer: the ensemble.
        pessimism: κ ≥ 0, how many standard deviations are added.
        bound: declared largest cost.

    Raises:
        InputError: a pessimism that is negative or not finite, or a bound that is no number.
    """

    scorer: Scorer
    pessimism: float
    bound: float

    def __post_init__(self) -> None:
        require_pessimism(self.pessimism)
        if math.isnan(self.bound):
            raise InputError("bound: nan; must be the largest cost there can be")

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """One column, float64 [n, 1].

        Raises:
            ScoreError: a score that is not finite, or scores of another shape.
            InputError: a scorer of a single member with pessimism > 0.
        """
        scores = require_members(self.scorer.score(prompts, responses), "cost")
        return self.combine(scores)[:, None]

    def combine(self, members: Float[np.ndarray, "n members"]) -> Float[np.ndarray, " n"]:
        """The ensemble's scores as one cost per answer; errors as in `score`."""
        require_finite(members, "cost")
        return np.minimum(pessimistic(members, self.pessimism), self.bound)

    def score_raters(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """The cost to each rater, float64 [n, raters]; errors as `score`.

        Raises:
            ScoreError: also where the scorer knows no raters.
        """
        found = read_answers(self.scorer, prompts, responses)
        if found.by_rater is None:
            raise ScoreError("cost: the scorer knows no raters; fit them (scorers.raters)")
        return self.combine_raters(found.by_rater)

    def combine_raters(
        self, by_rater: Float[np.ndarray, "n members raters"]
    ) -> Float[np.ndarray, "n raters"]:
        """The same to each rater."""
        require_finite(by_rater, "cost by rater")
        return np.minimum(pessimistic_to_raters(by_rater, self.pessimism), self.bound)


@dataclass(frozen=True)
class Scores:
    """Scores of n answers; every field float64 [n] unless said otherwise.

    Attributes:
        reward: mean of the reward ensemble.
        reward_std: its spread; NaN for a single member.
        cost: the pessimistic, clipped cost that plans and budgets are about.
        cost_mean: mean of the cost ensemble.
        cost_std: its spread; NaN for a single member.
        cost_doubt: `error_doubt` of its verdict, in bits.
        shift: how unlike the answers that it was fitted on, as `Reading.shift`; NaN if unknown.
        by_rater: the cost ensemble to each rater [n, members, raters]; None where it knows none.
    """

    reward: Float[np.ndarray, " n"]
    reward_std: Float[np.ndarray, " n"]
    cost: Float[np.ndarray, " n"]
    cost_mean: Float[np.ndarray, " n"]
    cost_std: Float[np.ndarray, " n"]
    cost_doubt: Float[np.ndarray, " n"]
    shift: Float[np.ndarray, " n"]
    by_rater: Float[np.ndarray, "n members raters"] | None = None


@dataclass(frozen=True)
class ScorerPair:
    """The reward and the cost scorer of a run."""

    reward: Scorer
    cost: PessimisticCost

    @property
    def raters(self) -> tuple[str, ...]:
        """Those that the cost scorer tells apart."""
        return raters_of(self.cost.scorer)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scores:
        """Score answers.

        Raises:
            ScoreError: a score that is not finite, or scores of another shape.
            InputError: a cost scorer of a single member with pessimism > 0.
        """
        # Checked before means are taken, because a NaN member would hide in none of them.
        reward = require_members(self.reward.score(prompts, responses), "reward")
        found = read_answers(self.cost.scorer, prompts, responses)
        cost = require_members(found.scores, "cost")
        return Scores(
            reward=reward.mean(axis=1),
            reward_std=spread(reward),
            cost=self.cost.combine(cost),
            cost_mean=cost.mean(axis=1),
            cost_std=spread(cost),
            cost_doubt=error_doubt(cost),
            shift=found.shift,
            by_rater=found.by_rater,
        )
