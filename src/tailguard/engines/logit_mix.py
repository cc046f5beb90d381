"""A weighted mix of several models on one tokenizer, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tailguard.engines.self_test import tested_policy
from tailguard.engines.stepping import Rows, Step
from tailguard.errors import InputError
from tailguard.models.policy import EncodedPrompts, Policy


class LogitMix:
    """The normalised geometric mixture Π π_k^{w_k}, taken token by token.

    log π(token) = Σ_k w_k log π_k(token) − log Z, one cache and one pass per member and token. The
    hidden state is the members' states side by side.

    Raises:
        InputError: no members, weights that are not ≥ 0 with sum 1, or members with different
            vocabularies.
    """

    def __init__(self, policies: Sequence[Policy], weights: Sequence[float]) -> None:
        if len(policies) == 0 or len(policies) != len(weights):
            raise InputError(f"weights: {len(weights)} for {len(policies)} policies; one for each")
        # A negative weight would push away from a member, which is no mixture of policies.
        if min(weights) < 0.0 or not abs(sum(weights) - 1.0) <= 1e-6:
            raise InputError(f"weights: {list(weights)}; must be ≥ 0 with sum 1")
        first = policies[0].tokenizer.get_vocab()
        if any(policy.tokenizer.get_vocab() != first for policy in policies[1:]):
            raise InputError("policies: a logit mix needs members with one and the same vocabulary")
        # A member of weight 0 would cost a full pass per token and change nothing.
        kept = [(p, w) for p, w in zip(policies, weights, strict=True) if w > 0.0]
        self._parts = [tested_policy(policy) for policy, _ in kept]
        self._weights = [weight for _, weight in kept]

    @property
    def members(self) -> tuple[Policy, ...]:
        """The models with positive weight."""
        return tuple(part.policy for part in self._parts)

    def prefill(
        self, prompts: EncodedPrompts, max_new_tokens: int, *, with_hidden: bool = False
    ) -> tuple[Rows, Step]:
        """See `DecodingPolicy`."""
        opened = [p.prefill(prompts, max_new_tokens, with_hidden=with_hidden) for p in self._parts]
        rows = _MixRows([rows for rows, _ in opened], self._weights)
        return rows, rows.mix([step for _, step in opened])


class _MixRows:
    """Rows of every member in step."""

    def __init__(self, parts: list[Rows], weights: list[float]) -> None:
        self._parts = parts
        self._weights = weights

    @property
    def num_passes(self) -> int:
        return sum(part.num_passes for part in self._parts)

    def mix(self, steps: list[Step]) -> Step:
        hidden = _side_by_side([step.hidden for step in steps])
        return Step(_mix_logits([step.logits for step in steps], self._weights), hidden)

    def step(self, token_ids: Tensor, *, with_hidden: bool = False) -> Step:
        return self.mix([part.step(token_ids, with_hidden=with_hidden) for part in self._parts])

    def read(self, token_ids: Tensor) -> Tensor:
        return _mix_logits([part.read(token_ids) for part in self._parts], self._weights)

    def read_hidden(self, token_ids: Tensor) -> Tensor:
        return torch.cat([part.read_hidden(token_ids) for part in self._parts], dim=-1)

    def gather(self, rows: Tensor, *, shared_tokens: int | None = None) -> None:
        for part in self._parts:
            part.gather(rows, shared_tokens=shared_tokens)

    def fork(self, rows: Tensor, max_new_tokens: int) -> _MixRows:
        return _MixRows([part.fork(rows, max_new_tokens) for part in self._parts], self._weights)


def _side_by_side(hidden: list[Tensor | None]) -> Tensor | None:
    states = [state for state in hidden if state is not None]
    return torch.cat(states, dim=-1) if states else None


def _mix_logits(logits: list[Tensor], weights: list[float]) -> Tensor:
    # Normalised first: members' logits are each free of a constant. The sampler normalises again.
    parts = [w * x.float().log_softmax(dim=-1) for w, x in zip(weights, logits, strict=True)]
    return torch.stack(parts).sum(dim=0)
