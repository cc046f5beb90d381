"""How guidance grows and chooses candidates, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tailguard.engines.advance import Advance
from tailguard.errors import InputError
from tailguard.values.prefix_score import PrefixScore, PrefixScorer


@dataclass(frozen=True)
class Guidance:
    """How candidates are grown and chosen.

    Attributes:
        num_candidates: K.
        block_tokens: L, tokens between choices.
        score_prefix: bounds from hidden states; None only for one candidate, which is then plain
            sampling.
        multiplier: λ′ ≥ 0.
        num_finalists: how many ended candidates a prompt keeps, best first.
    """

    num_candidates: int
    block_tokens: int
    score_prefix: PrefixScorer | None
    multiplier: float = 0.0
    num_finalists: int = 1

    def __post_init__(self) -> None:
        """Refuse counts below 1, a negative multiplier, and a choice without scores."""
        for name in ("num_candidates", "block_tokens", "num_finalists"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}; must be at least 1")
        if not 0.0 <= self.multiplier < float("inf"):
            raise InputError(f"multiplier: {self.multiplier}; must be finite and ≥ 0")
        if self.score_prefix is None and self.num_candidates > 1:
            raise InputError(
                f"score_prefix: None, but choosing among {self.num_candidates} candidates needs "
                "scores; give process heads or one candidate"
            )

    def bounds(self, advanced: Advance) -> PrefixScore:
        """Bounds for each row; zero where nothing scores."""
        if self.score_prefix is None or advanced.hidden is None:
            zero = torch.zeros_like(advanced.log_probs)
            return PrefixScore(zero, zero)
        return self.score_prefix(advanced.hidden)


@dataclass(frozen=True)
class Candidate:
    """A response that was grown to its end.

    Attributes:
        token_ids: its tokens, a stop token included.
        text: decoded without special tokens.
        score: reward_lower − multiplier·penalty_upper, at its last token.
        reward_lower: lower bound on reward.
        penalty_upper: upper bound on E φ_ν′(C).
        finished: ended with a stop token, not by running out of tokens.
    """

    token_ids: list[int]
    text: str
    score: float
    reward_lower: float
    penalty_upper: float
    finished: bool


@dataclass(frozen=True)
class GuidedResponse:
    """What guidance found for one prompt.

    Attributes:
        candidates: ended candidates, best first; none if ``failed``.
        failed: a score, or the model's own prediction, was not finite; nothing may be served.
        num_candidates: candidates grown side by side (K).
        num_prompt_tokens: of the prompt as the policy reads it.
        num_tokens_generated: over all candidates.
        num_forward_passes: model calls this prompt took part in, its own reading included.
    """

    candidates: tuple[Candidate, ...]
    failed: bool
    num_candidates: int
    num_prompt_tokens: int
    num_tokens_generated: int
    num_forward_passes: int
