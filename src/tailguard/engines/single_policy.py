"""One causal LM as a decoding policy, read in the way that its architecture allows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tailguard.engines.cached_rows import CachedRows
from tailguard.engines.forward import Forward
from tailguard.engines.length_groups import LengthGroups, split_by_length
from tailguard.engines.reread_rows import RereadRows
from tailguard.engines.stepping import Reading, Rows, Step
from tailguard.models.policy import EncodedPrompts, Policy


@dataclass(frozen=True)
class EngineMode:
    """How the rows of a model are read; `tailguard.engines.self_test` says what is right for it.

    Attributes:
        cached: each token is read once and kept in a cache; else whole rows are read again.
        padded: rows of unlike lengths share a pass; else each length has its own.
    """

    cached: bool = True
    padded: bool = True


PREFERRED_MODES = (
    EngineMode(),
    EngineMode(padded=False),
    # Without a cache, rows are filled up on the right, which no causal model can see.
    EngineMode(cached=False),
)
"""From the cheapest to the one that asks least of a model."""


class SinglePolicy:
    """One causal LM, read in a given mode.

    Use `tested_policy` in ``self_test``, which finds the mode, unless the mode is known.
    """

    def __init__(self, policy: Policy, mode: EngineMode) -> None:
        self.policy = policy
        self.mode = mode
        self._forward = Forward(policy)

    @property
    def members(self) -> tuple[Policy, ...]:
        """The one model."""
        return (self.policy,)

    def prefill(
        self, prompts: EncodedPrompts, max_new_tokens: int, *, with_hidden: bool = False
    ) -> tuple[Rows, Step]:
        """See `DecodingPolicy`."""
        if not self.mode.cached:
            reread = RereadRows.of(self._forward, prompts)
            return reread, reread.predict(1, num_logits=1, with_hidden=with_hidden).last()
        if self.mode.padded or bool(prompts.mask.all()):
            rows, reading = self._read_prompts(prompts, max_new_tokens, with_hidden)
            return rows, reading.last()
        groups: list[tuple[Tensor, CachedRows]] = []
        steps: list[Step] = []
        for members, part in split_by_length(prompts):
            rows, reading = self._read_prompts(part, max_new_tokens, with_hidden)
            groups.append((members, rows))
            steps.append(reading.last())
        together = LengthGroups(groups)
        return together, together.merge(steps)

    def _read_prompts(
        self, prompts: EncodedPrompts, max_new_tokens: int, with_hidden: bool
    ) -> tuple[CachedRows, Reading]:
        rows = CachedRows.empty(self._forward, prompts, max_new_tokens)
        return rows, rows.append(prompts.token_ids, 1, with_hidden=with_hidden)
