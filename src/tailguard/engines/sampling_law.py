"""Choosing the next token: temperature, nucleus, and one uniform number per choice.

Tokens are drawn by inverting the cumulative distribution at a given uniform number, so the draw of
one row never depends on which other rows share its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tailguard.errors import InputError


class Choice(NamedTuple):
    """Tokens and their log-probabilities under the sampling law, both [n]."""

    token_ids: Int[Tensor, " n"]
    log_probs: Float[Tensor, " n"]


@dataclass(frozen=True)
class SamplingLaw:
    """Softmax of logits/temperature, restricted to its nucleus.

    Attributes:
        temperature: ≥ 0; 0 takes the most likely token, with log-probability 0.
        top_p: in (0, 1]; keep the fewest most likely tokens whose mass reaches it
            (Holtzman et al. 2020).
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        if not 0.0 <= self.temperature < float("inf"):
            raise InputError(f"temperature: {self.temperature}; must be finite and ≥ 0")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p: {self.top_p}; must lie in (0, 1]")

    def choose(self, logits: Float[Tensor, "n vocab"], uniform: Float[Tensor, " n"]) -> Choice:
        """One token per row, at uniform numbers in [0, 1).

        A row with NaN logits gets some token, with log-probability NaN.
        """
        logits = logits.float()
        if self.temperature == 0.0:
            highest, token_ids = logits.max(dim=-1)
            # 0, but NaN where the row is NaN.
            return Choice(token_ids, highest - highest)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        probs = logits.softmax(dim=-1)
        if self.top_p == 1.0:
            return _invert(probs, uniform)
        sorted_probs, order = probs.sort(dim=-1, descending=True)
        # The mass *before* a token decides, so that the most likely one always stays.
        outside = sorted_probs.cumsum(dim=-1) - sorted_probs >= self.top_p
        choice = _invert(sorted_probs.masked_fill(outside, 0.0), uniform)
        return Choice(order.gather(1, choice.token_ids[:, None])[:, 0], choice.log_probs)


def _invert(mass: Tensor, uniform: Tensor) -> Choice:
    """The first index whose cumulative mass exceeds uniform × total; never one of zero mass."""
    cumulative = mass.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # uniform × total may round up to total, which no cumulative mass exceeds.
    level = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, level, right=True).clamp(max=mass.shape[-1] - 1)
    return Choice(index[:, 0], (mass.gather(1, index) / total).log()[:, 0])


def uniform_draws(
    seeds: Sequence[int], num_samples: int, num_tokens: int
) -> Float[Tensor, "prompts num_samples num_tokens"]:
    """Uniform numbers in [0, 1): those of prompt p depend on ``seeds[p]`` alone."""
    draws = np.stack(
        [
            # NumPy's generator: torch's gives other numbers on other devices.
            np.random.Generator(np.random.PCG64(seed)).random(
                (num_samples, num_tokens), dtype=np.float32
            )
            for seed in seeds
        ]
    )
    return torch.as_tensor(draws)


def prompt_seeds(seed: int, num_prompts: int) -> list[int]:
    """A seed for each position of a list of prompts, unrelated between positions and seeds."""
    if seed < 0:
        raise InputError(f"seed: {seed}; must be ≥ 0")
    # Spawned, not seed + i: that would give prompt 1 of seed 0 the draws of prompt 0 of seed 1.
    words = np.random.SeedSequence(seed).spawn(num_prompts)
    return [int(word.generate_state(1, np.uint64)[0]) for word in words]
