"""Rows without a cache: the whole row is read again for every token."""

from __future__ import annotations

import torch
from torch import Tensor

from tailguard.engines.forward import Forward
from tailguard.engines.stepping import Reading, Step
from tailguard.models.policy import EncodedPrompts


class RereadRows:
    """Rows that any causal model reads rightly, at the price of reading them again and again.

    Rows are filled up on the *right*, where a causal model's predictions cannot depend on it: no
    mask, no positions, no state that outlives a call.
    """

    def __init__(self, forward: Forward, token_ids: Tensor, lengths: Tensor) -> None:
        self._forward = forward
        self._token_ids = token_ids  # [n, longest], what fills up a row on the left
        self._lengths = lengths  # of each row [n]
        self.num_passes = 0

    @classmethod
    def of(cls, forward: Forward, prompts: EncodedPrompts) -> RereadRows:
        """The prompts, not read yet."""
        return cls(forward, prompts.token_ids, prompts.mask.sum(dim=1))

    def predict(self, num_positions: int, *, num_logits: int, with_hidden: bool) -> Reading:
        """Read all rows anew.

        Args:
            num_positions: how many of each row's last tokens hidden states are wanted at.
            num_logits: and logits.
            with_hidden: whether hidden states are wanted.
        """
        self.num_passes += 1
        longest = self._token_ids.shape[1]
        missing = longest - self._lengths
        column = torch.arange(longest, device=missing.device)
        # A rotation to the left: what filled up the row on the left now stands on the right.
        turned = self._token_ids.gather(1, (column + missing[:, None]) % longest)
        num_read = int(missing.max()) + num_logits
        read = self._forward(turned, num_read, with_hidden=with_hidden)
        logits = _at(read.logits, num_read - missing, num_logits)
        if read.hidden is None:
            return Reading(logits, None)
        return Reading(logits, _at(read.hidden, self._lengths, num_positions))

    def step(self, token_ids: Tensor, *, with_hidden: bool = False) -> Step:
        """See `Rows`."""
        self._append(token_ids[:, None])
        return self.predict(1, num_logits=1, with_hidden=with_hidden).last()

    def read(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        self._append(token_ids)
        return self.predict(0, num_logits=token_ids.shape[1], with_hidden=False).logits

    def read_hidden(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        self._append(token_ids)
        hidden = self.predict(token_ids.shape[1], num_logits=1, with_hidden=True).hidden
        assert hidden is not None  # asked for
        return hidden

    def _append(self, token_ids: Tensor) -> None:
        self._token_ids = torch.cat([self._token_ids, token_ids], dim=1)
        self._lengths = self._lengths + token_ids.shape[1]

    def gather(self, rows: Tensor, *, shared_tokens: int | None = None) -> None:
        """See `Rows`."""
        lengths = self._lengths[rows]
        # What no row is long enough for is read by none.
        unused = self._token_ids.shape[1] - int(lengths.max())
        self._token_ids, self._lengths = self._token_ids[rows][:, unused:], lengths

    def fork(self, rows: Tensor, max_new_tokens: int) -> RereadRows:
        """See `Rows`."""
        forked = RereadRows(self._forward, self._token_ids, self._lengths)
        forked.gather(rows)
        return forked


def _at(values: Tensor, ends: Tensor, count: int) -> Tensor:
    """Of values [n, positions, width], in each row the ``count`` before its end."""
    column = ends[:, None] - count + torch.arange(count, device=ends.device)
    return values[torch.arange(ends.shape[0], device=ends.device)[:, None], column]
