"""What a judge is, and what one may be built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailguard.data import Prompt
from tailguard.evaluation.judges.linear import Kind
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.scorer import Scorer, require_finite


@dataclass(frozen=True)
class Judge:
    """Scores that took no part in training or guidance.

    Attributes:
        name: shown in the report.
        reward: helpfulness.
        cost: harm.
        is_refusal: whether a text declines.
        cost_bound: declared largest cost; None where the judge declares none.
        raters: groups of people, or kinds of harm, that it tells apart.
        rater_cost: harm to each of them, a column each; None where it knows none.
        figures: held-out accuracy and the like, by kind of score.
    """

    name: str
    reward: Scorer
    cost: Scorer
    is_refusal: Callable[[str], bool]
    cost_bound: float | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: {})
    raters: tuple[str, ...] = ()
    rater_cost: Scorer | None = None

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reward and cost of each answer, float64 [n] each.

        Raises:
            ScoreError: a score that is not finite.
        """
        # A NaN would drop out of the tail unseen, so a judge's scores are checked like any others.
        reward = require_finite(self.reward.score(prompts, responses), "judge's reward")
        cost = require_finite(self.cost.score(prompts, responses), "judge's cost")
        return reward.mean(axis=1), cost.mean(axis=1)

    def score_raters(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Cost to each rater, float64 [n, raters]; no columns where it knows none.

        Raises:
            ScoreError: a score that is not finite.
        """
        if self.rater_cost is None:
            return np.zeros((len(responses), 0))
        return require_finite(self.rater_cost.score(prompts, responses), "judge's cost by rater")


@dataclass(frozen=True)
class JudgeInputs:
    """What a run offers to the judge that it builds; each judge takes what it needs.

    Attributes:
        pairs: (pairs to fit on, held-out pairs) for a kind of score, read when called; None where
            the run has none. No scorer has seen these pairs.
        steps: progress of one named thing, as (done, total).
        device: where to put its models.
    """

    pairs: Callable[[Kind], tuple[ResponsePairs, ResponsePairs] | None]
    steps: Callable[[str], Callable[[int, int], None]]
    device: str = "auto"
