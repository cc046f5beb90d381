"""An answer read more than once: with its prompt and without, or window by window.

Whoever asks also writes the prompt, and a few words there can change what a scorer that reads pairs
says of the answer. So a cost is read a second time with the prompt withheld, which no prompt can
influence, and the worse of the two readings counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tailguard.data import Prompt
from tailguard.scorers.scorer import WITHHELD, Scorer
from tailguard.scorers.shift import score_with_shift


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

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """`worst_reading` of both, float64 [n, members]; errors are the scorer's own."""
        return self.score_with_shift(prompts, responses)[0]

    def score_with_shift(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the shift of the reading with the prompt [n]; see `score_with_shift`."""
        shown, shift = score_with_shift(self.scorer, prompts, responses)
        # Refusals repeat, and without its prompt the same text has the same score.
        distinct = list(dict.fromkeys(responses))
        alone = np.asarray(self.scorer.score([WITHHELD] * len(distinct), distinct))
        if shown.ndim != 2 or alone.shape != (len(distinct), *shown.shape[1:]):
            return shown, shift  # broken promises are for the reader of scores to name
        place = {text: row for row, text in enumerate(distinct)}
        return worst_reading([shown, alone[[place[text] for text in responses]]]), shift
