"""What a prompt gets, and what it took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tailguard.decoding.scoring import SCORE_UNAVAILABLE, ScoreSummary


@dataclass(frozen=True)
class Chosen:
    """What a prompt gets, and what it took.

    Attributes:
        text: of the answer, or of the fallback.
        abstained: whether it is the fallback.
        reason: why, where abstained; else empty.
        reward: of the text.
        cost: of the text.
        cost_upper_bound: u(y) of the text; +inf where it has no score.
        finished: ended by itself or at a stop text.
        num_draws: answers drawn.
        num_prompt_tokens: of the prompt.
        num_tokens_generated: of all draws.
        num_forward_passes: model calls, the prompt's own included.
        doubt: `error_doubt` of the verdict on the text's cost, in bits; None where it has no score.
        shift: how unlike the answers that the cost scorer was fitted on the text is, and where answers
            were withheld for that, the one most like them; None where unknown.
        unlike: whether answers were withheld for that.
        rater_bounds: u(y) of the text to each rater, by name; empty where the scorer knows none.
    """

    text: str
    abstained: bool
    reason: str
    reward: ScoreSummary | None
    cost: ScoreSummary | None
    cost_upper_bound: float
    finished: bool
    num_draws: int
    num_prompt_tokens: int
    num_tokens_generated: int
    num_forward_passes: int
    doubt: float | None = None
    shift: float | None = None
    unlike: bool = False
    rater_bounds: Mapping[str, float] = field(default_factory=lambda: {})


def unscored(fallback: str) -> Chosen:
    """What a prompt gets whose answers could not be scored at all."""
    return Chosen(
        text=fallback,
        abstained=True,
        reason=SCORE_UNAVAILABLE,
        reward=None,
        cost=None,
        cost_upper_bound=math.inf,
        finished=True,
        num_draws=0,
        num_prompt_tokens=0,
        num_tokens_generated=0,
        num_forward_passes=0,
    )
