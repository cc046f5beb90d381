"""A cost by rater as a scorer: the protocol, and our ensembles with the heads of raters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tailguard.data import Prompt
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.rater_heads import RatedPairs, RaterHeads
from tailguard.scorers.score_map import MappedScorer, ScoreMap
from tailguard.scorers.scorer import require_finite


@runtime_checkable
class RatedScorer(Protocol):
    """A cost scorer that knows groups of people, or kinds of harm, apart."""

    @property
    def raters(self) -> tuple[str, ...]:
        """Their names."""
        ...

    def score_raters(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Cost to each rater, float64 [n, members, raters]."""
        ...


@dataclass(frozen=True)
class RatedCost:
    """Our ensemble in calibrated units, with what each rater minds.

    Attributes:
        scorer: the ensemble.
        score_map: its units.
        heads: of the raters, in these units.
    """

    scorer: SequenceClassificationScorer
    score_map: ScoreMap
    heads: RaterHeads

    @property
    def raters(self) -> tuple[str, ...]:
        """Their names."""
        return self.heads.raters

    @property
    def population(self) -> MappedScorer:
        """The cost without raters."""
        return MappedScorer(self.scorer, self.score_map)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Cost to the population, float64 [n, members]."""
        return self.population.score(prompts, responses)

    def score_with_shift(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the scorer's own shift [n]; see `tailguard.scorers.shift.score_with_shift`."""
        return self.population.score_with_shift(prompts, responses)

    def score_raters(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Float[np.ndarray, "n members raters"]:
        """Cost to each rater, float64 [n, members, raters].

        Raises:
            ScoreError: a cost that is not finite.
        """
        scores, topic = self.scorer.score_with_topic(prompts, responses)
        return require_finite(self.heads.costs(self.score_map(scores), topic), "cost by rater")


def rated_pairs(
    scorer: SequenceClassificationScorer, score_map: ScoreMap, pairs: ResponsePairs
) -> RatedPairs:
    """What `fit_rater_heads` reads of pairs: one pass over all answers."""
    num = len(pairs)
    prompts, answers = [*pairs.prompts, *pairs.prompts], [*pairs.higher, *pairs.lower]
    scores, topic = scorer.score_with_topic(prompts, answers)
    costs, unknown = score_map(scores), [0] * num
    return RatedPairs(
        higher=costs[:num],
        lower=costs[num:],
        higher_topic=topic[:num],
        lower_topic=topic[num:],
        higher_sign=np.array(pairs.higher_sign or unknown),
        lower_sign=np.array(pairs.lower_sign or unknown),
        raters=pairs.raters or [None] * num,
        prompt_index=pairs.prompt_index(),
    )
