"""A cost by rater as a scorer: our ensembles with the heads of raters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.rater_heads import RatedPairs, RaterHeads
from tailguard.scorers.readings import Reading
from tailguard.scorers.score_map import ScoreMap
from tailguard.scorers.scorer import require_finite


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

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Cost to the population, float64 [n, members]."""
        return self.read(prompts, responses).scores

    def read(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Reading:
        """Cost to the population and to each rater, and the shift, from one pass.

        Raises:
            ScoreError: a cost that is not finite.
        """
        found, topic = _with_topic(self.scorer, prompts, responses)
        scores = self.score_map(found.scores)
        costs = require_finite(self.heads.costs(scores, topic), "cost by rater")
        return Reading(scores, found.shift, costs)


def _with_topic(
    scorer: SequenceClassificationScorer, prompts: Sequence[Prompt], responses: Sequence[str]
) -> tuple[Reading, np.ndarray]:
    found, topic = scorer.read_with_topic(prompts, responses)
    if topic is None:
        raise InputError("heads: none; only an ensemble of ours tells what a text is about")
    return found, topic


def rated_pairs(
    scorer: SequenceClassificationScorer, score_map: ScoreMap, pairs: ResponsePairs
) -> RatedPairs:
    """What `fit_rater_heads` reads of pairs: one pass over all answers."""
    num = len(pairs)
    prompts, answers = [*pairs.prompts, *pairs.prompts], [*pairs.higher, *pairs.lower]
    found, topic = _with_topic(scorer, prompts, answers)
    costs, unknown = score_map(found.scores), [0] * num
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
