"""Looking at answers under way: what their beginnings show, and which of them are not worth going on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tailguard.errors import InputError

Look = Callable[[int, Tensor, Tensor], Tensor | None]
"""(number of the checkpoint, rows [m], their states [m, 2·hidden]) → which to leave off [m], or None."""


class PrefixWatch:
    """The states of rows under way, shown at some numbers of tokens.

    A row's state is the prompt's last hidden state beside the mean of the answer's so far, of what meets the
    output layer. The state at an answer's newest token alone knows little of the answer: it predicts the
    next token.

    Attributes:
        checkpoints: numbers of tokens, increasing, after which rows are shown.
    """

    def __init__(self, checkpoints: Sequence[int], look: Look) -> None:
        """Watch nothing yet.

        Args:
            checkpoints: numbers of tokens, increasing, at least 1.
            look: what is called there with the rows that are still under way.

        Raises:
            InputError: checkpoints that do not increase, or none.
        """
        self.checkpoints = tuple(checkpoints)
        increasing = all(
            a < b for a, b in zip((0, *self.checkpoints), self.checkpoints, strict=False)
        )
        if not self.checkpoints or not increasing:
            raise InputError(f"checkpoints: {list(checkpoints)}; give whole numbers that increase")
        self._look = look
        self._prompt = torch.empty(0)
        self._sum = torch.empty(0)
        self._numbers: Sequence[int] = ()

    def begin(self, prompt: Float[Tensor, "n hidden"], numbers: Sequence[int]) -> None:
        """Start on n rows.

        Args:
            prompt: hidden state at each prompt's last token.
            numbers: what ``look`` is to call each row.
        """
        self._prompt, self._sum = prompt, torch.zeros_like(prompt)
        self._numbers = numbers

    def wants(self, num_tokens: int) -> bool:
        """Whether the state after so many tokens is needed."""
        return num_tokens <= self.checkpoints[-1]

    def read(
        self,
        num_tokens: int,
        alive: Int[Tensor, " m"],
        ended: Bool[Tensor, " m"],
        hidden: Float[Tensor, "m hidden"],
    ) -> Bool[Tensor, " m"] | None:
        """Take in the states after so many tokens; which rows to leave off, None where none.

        Args:
            num_tokens: of each row that has not ended.
            alive: which of the n rows are in the batch.
            ended: which of these have ended.
            hidden: after the newest token of each.
        """
        self._sum[alive] += hidden.to(self._sum)
        if num_tokens not in self.checkpoints:
            return None
        under_way = (~ended).nonzero()[:, 0]
        rows = alive[under_way]
        states = torch.cat([self._prompt[rows], self._sum[rows] / num_tokens], dim=1)
        index: Any = rows
        numbers = torch.tensor([self._numbers[i] for i in index.tolist()])
        left_off = self._look(self.checkpoints.index(num_tokens), numbers, states)
        if left_off is None:
            return None
        found = torch.zeros_like(ended)
        found[under_way] = left_off.to(found.device)
        return found
