"""What one reading of an answer tells, and answers read more than once: with their prompt and without.

Whoever asks also writes the prompt, and a few words there can change what a scorer that reads pairs
says of the answer. So a cost is read a second time with the prompt withheld, which no prompt can
influence, and the worse of the two readings counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tailguard.data import Prompt
from tailguard.scorers.scorer import WITHHELD, Scorer


@dataclass(frozen=True, eq=False)
class Reading:
    """What a scorer tells of n answers from one pass.

    Attributes:
        scores: what `Scorer.score` gives, [n, members].
        shift: how unlike the fitted answers each answer is (`ShiftModel.distance`), [n]; NaN where
            the scorer does not tell: a given one, a function, an endpoint.
        by_rater: the scores to each rater, [n, members, raters]; None where the scorer knows none.
    """

    scores: np.ndarray
    shift: np.ndarray
    by_rater: np.ndarray | None = None


@runtime_checkable
class _Reads(Protocol):
    def read(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Reading: ...


def read_answers(scorer: Scorer, prompts: Sequence[Prompt], responses: Sequence[str]) -> Reading:
    """All that a scorer tells of answers, from one reading."""
    if isinstance(scorer, _Reads):
        return scorer.read(prompts, responses)
    return Reading(np.asarray(scorer.score(prompts, responses)), np.full(len(responses), math.nan))


@runtime_checkable
class _KnowsRaters(Protocol):
    @property
    def raters(self) -> tuple[str, ...]: ...


def raters_of(scorer: object) -> tuple[str, ...]:
    """Groups of people, or kinds of harm, that a scorer tells apart; none where it does not."""
    return scorer.raters if isinstance(scorer, _KnowsRaters) else ()


def worst_reading(
    readings: Sequence[Float[np.ndarray, "n members"]],
) -> Float[np.ndarray, "n members"]:
    """Members whose mean and spread are the largest of any reading's.

    Mean + κ·spread of the result is so at least that of every reading, for each κ ≥ 0, and equals
    the largest of them where one reading has both. Taking the larger score member by member would
    not do: where members disagree on which reading is worse, their spread can vanish.

    Args:
        readings: scores of the same answers, at least one array.
    """
    stacked = np.stack([np.asarray(reading, dtype=np.float64) for reading in readings])
    if stacked.shape[2] == 1:
        return stacked.max(axis=0)  # no spread to keep
    means = stacked.mean(axis=2)
    widest = stacked.std(axis=2).argmax(axis=0)[None]
    chosen = np.take_along_axis(stacked, widest[:, :, None], axis=0)[0]
    shift = means.max(axis=0) - np.take_along_axis(means, widest, axis=0)[0]
    return chosen + shift[:, None]


@dataclass(frozen=True)
class WorseReading:
    """A cost scorer that a prompt cannot buy: the worse of its readings with and without the prompt.

    Attributes:
        scorer: reads pairs; its scores are costs.
    """

    scorer: Scorer

    @property
    def raters(self) -> tuple[str, ...]:
        """Those that the scorer tells apart."""
        return raters_of(self.scorer)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """`worst_reading` of both, float64 [n, members]; errors are the scorer's own."""
        return self.read(prompts, responses).scores

    def read(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Reading:
        """The same, also to each rater, and the shift of the reading with the prompt."""
        shown = read_answers(self.scorer, prompts, responses)
        # Refusals repeat, and without its prompt the same text has the same score.
        distinct = list(dict.fromkeys(responses))
        alone = read_answers(self.scorer, [WITHHELD] * len(distinct), distinct)
        if shown.scores.ndim != 2 or alone.scores.shape != (len(distinct), *shown.scores.shape[1:]):
            return shown  # broken promises are for the reader of scores to name
        place = {text: row for row, text in enumerate(distinct)}
        rows = [place[text] for text in responses]
        by_rater = shown.by_rater
        if by_rater is not None and alone.by_rater is not None:
            # To each rater apart: the worse reading to one need not be that to another.
            flat = [per_rater(each) for each in (by_rater, alone.by_rater[rows])]
            shape = (len(responses), by_rater.shape[2], by_rater.shape[1])
            by_rater = worst_reading(flat).reshape(shape).swapaxes(1, 2)
        return Reading(worst_reading([shown.scores, alone.scores[rows]]), shown.shift, by_rater)


def per_rater(scores: np.ndarray) -> np.ndarray:
    """[n, members, raters] as [n·raters, members]."""
    return scores.swapaxes(1, 2).reshape(-1, scores.shape[1])
