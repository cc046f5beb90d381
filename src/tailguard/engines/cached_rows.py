"""Rows of one model that read each token once and keep it in a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from tailguard.engines.cache import RowCache
from tailguard.engines.forward import Forward
from tailguard.engines.stepping import Reading, Step
from tailguard.models.policy import EncodedPrompts


class CachedRows:
    """Rows that are filled up on the left where their prompts are of unlike lengths.

    Without padding no mask is passed (models then take their fastest path).
    """

    def __init__(
        self,
        forward: Forward,
        cache: RowCache,
        mask: Tensor | None,
        num_prompt_positions: int,
        length: int,
    ) -> None:
        self._forward = forward
        self._cache = cache
        self._mask = mask  # [n, capacity], true also where tokens are still to come
        self._positions = self._number(mask)
        self._num_prompt_positions = num_prompt_positions
        self._length = length
        self.num_passes = 0

    @classmethod
    def empty(cls, forward: Forward, prompts: EncodedPrompts, max_new_tokens: int) -> CachedRows:
        """Rows before their prompts are read, with room for them and so many tokens."""
        num_prompt_positions = prompts.token_ids.shape[1]
        capacity = num_prompt_positions + max_new_tokens
        cache = RowCache.empty(forward.policy.model.config, capacity)
        # Prompts of one length: models take their fastest attention without a mask.
        mask = None if bool(prompts.mask.all()) else _extend(prompts.mask, capacity)
        return cls(forward, cache, mask, num_prompt_positions, 0)

    def _number(self, mask: Tensor | None) -> Tensor | None:
        """Positions of what the mask shows; only what fills up a row can lie past the context."""
        if mask is None:
            return None
        return (mask.long().cumsum(dim=1) - 1).clamp(0, self._forward.policy.context_tokens - 1)

    def append(self, token_ids: Tensor, num_logits: int, *, with_hidden: bool) -> Reading:
        """Read [n, t] more tokens; logits at the last ``num_logits`` of them."""
        start, self._length = self._length, self._length + token_ids.shape[1]
        mask = self._mask
        if mask is not None and self._length > mask.shape[1]:
            # Doubled, as the cache is.
            self._mask = mask = _extend(mask, 2 * self._length)
            self._positions = self._number(mask)
        positions: Tensor | None = None
        if self._positions is not None:
            positions = self._positions[:, start : self._length]
        elif start:
            # Some models (Bamba) would count from 0 again, whatever their cache holds.
            positions = torch.arange(start, self._length, device=token_ids.device)
            positions = positions.expand(token_ids.shape)
        self.num_passes += 1
        return self._forward(
            token_ids,
            num_logits,
            mask=None if mask is None else mask[:, : self._length],
            positions=positions,
            cache=self._cache,
            with_hidden=with_hidden,
        )

    def step(self, token_ids: Tensor, *, with_hidden: bool = False) -> Step:
        """See `Rows`."""
        return self.append(token_ids[:, None], 1, with_hidden=with_hidden).last()

    def read(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        if not self._cache.reads_many:
            # One token at a time: such layers would lose their state with several.
            return torch.stack([self.step(column).logits for column in token_ids.T], dim=1)
        return self.append(token_ids, token_ids.shape[1], with_hidden=False).logits

    def read_hidden(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        columns = [token_ids] if self._cache.reads_many else [c[:, None] for c in token_ids.T]
        # One position's logits, since models read 0 as all.
        read = [self.append(column, 1, with_hidden=True).hidden for column in columns]
        return torch.cat([hidden for hidden in read if hidden is not None], dim=1)

    def gather(self, rows: Tensor, *, shared_tokens: int | None = None) -> None:
        """See `Rows`."""
        shared = 0 if shared_tokens is None else self._num_prompt_positions + shared_tokens
        self._cache.gather(rows, shared)
        if self._mask is not None:
            self._mask = self._mask[rows]
            self._positions = self._number(self._mask)

    def fork(self, rows: Tensor, max_new_tokens: int) -> CachedRows:
        """See `Rows`."""
        capacity = self._num_prompt_positions + max_new_tokens
        mask = None if self._mask is None else _extend(self._mask[rows], capacity)
        cache = self._cache.fork(rows, capacity)
        return CachedRows(self._forward, cache, mask, self._num_prompt_positions, self._length)


def _extend(mask: Tensor, capacity: int) -> Tensor:
    spare = max(capacity - mask.shape[1], 0)
    # Ones: whatever comes after the prompt is read, pads of ended rows included.
    return torch.cat([mask, mask.new_ones(mask.shape[0], spare)], dim=1)
