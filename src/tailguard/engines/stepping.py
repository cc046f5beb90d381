"""What decodes: one model, or a weighted mix of several, behind the same two seams.

`DecodingPolicy` encodes prompts and opens `Rows`; `Rows` take one token each per step and can be
gathered and forked. Sampling and guidance know nothing else about models.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tailguard.engines.cache import RowCache
from tailguard.errors import InputError
from tailguard.models.policy import EncodedPrompts, Policy

# What models call their cache, newest name first: transformers 5.24 renamed `past_key_values`, and
# the old name goes in 5.40. A name that a model does not know would vanish in its `**kwargs`, and
# every token would be predicted from one token alone, silently. So the signature decides.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")


class Step(NamedTuple):
    """Predictions after the newest token of each row.

    Attributes:
        logits: of the next token [n, vocab].
        hidden: the final (post-norm) hidden state [n, hidden], where asked for.
    """

    logits: Float[Tensor, "n vocab"]
    hidden: Float[Tensor, "n hidden"] | None


class Reading(NamedTuple):
    """What one pass over several tokens gave.

    Attributes:
        logits: of the tokens that follow the last few of them [n, logits, vocab].
        hidden: the final (post-norm) hidden states after each [n, tokens, hidden], where asked for.
    """

    logits: Float[Tensor, "n logits vocab"]
    hidden: Float[Tensor, "n tokens hidden"] | None

    def last(self) -> Step:
        """What stands after the newest token."""
        return Step(self.logits[:, -1], None if self.hidden is None else self.hidden[:, -1])


@runtime_checkable
class Rows(Protocol):
    """A batch of sequences under way, with their caches."""

    @property
    def num_passes(self) -> int:
        """Model calls made so far, the prompt's own included."""
        ...

    def step(self, token_ids: Int[Tensor, " n"], *, with_hidden: bool = False) -> Step:
        """Append one token to each row."""
        ...

    def read(self, token_ids: Int[Tensor, "n tokens"]) -> Float[Tensor, "n tokens vocab"]:
        """Append several tokens to each row in one pass; the logits after each of them."""
        ...

    def read_hidden(self, token_ids: Int[Tensor, "n tokens"]) -> Float[Tensor, "n tokens hidden"]:
        """As `read`, but the hidden states, without logits: a vocabulary is far wider than they are."""
        ...

    def gather(self, rows: Int[Tensor, " m"], *, shared_tokens: int | None = None) -> None:
        """Row i becomes old row ``rows[i]``.

        ``shared_tokens`` says that new row i and old row i have the prompt and so many response
        tokens in common, which then need no copy; None promises nothing.
        """
        ...

    def fork(self, rows: Int[Tensor, " m"], max_new_tokens: int) -> Rows:
        """New rows, copies of ``rows``, with room for so many tokens; the old ones stay."""
        ...


@runtime_checkable
class DecodingPolicy(Protocol):
    """Anything that predicts the next token of a batch of rows."""

    @property
    def members(self) -> tuple[Policy, ...]:
        """The models behind it; the first one's tokenizer and limits hold."""
        ...

    def prefill(
        self, prompts: EncodedPrompts, max_new_tokens: int, *, with_hidden: bool = False
    ) -> tuple[Rows, Step]:
        """Read the prompts in one pass; room is made for so many tokens."""
        ...


class SinglePolicy:
    """One causal LM."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        parameters = inspect.signature(policy.model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._takes_keep = "logits_to_keep" in parameters
        self._cache_name = next((name for name in _CACHE_NAMES if name in parameters), "")
        if not self._cache_name:
            raise InputError(
                f"policy: {type(policy.model).__name__} takes no cache under a known name"
                f" ({', '.join(_CACHE_NAMES)}), so it cannot be decoded from; use another model"
            )

    @property
    def members(self) -> tuple[Policy, ...]:
        """The one model."""
        return (self.policy,)

    def prefill(
        self, prompts: EncodedPrompts, max_new_tokens: int, *, with_hidden: bool = False
    ) -> tuple[Rows, Step]:
        """See `DecodingPolicy`."""
        rows = _CachedRows.empty(self, prompts, max_new_tokens)
        return rows, rows.append(prompts.token_ids, 1, with_hidden=with_hidden).last()

    def call(
        self,
        token_ids: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: RowCache,
        num_logits: int,
        *,
        with_hidden: bool,
    ) -> Reading:
        """One model call; logits at the last ``num_logits`` positions alone."""
        extra: dict[str, Any] = {self._cache_name: cache.past}
        if positions is not None and self._takes_positions:
            extra["position_ids"] = positions
        if self._takes_keep:
            # Logits over a whole prompt would take more memory than the model.
            extra["logits_to_keep"] = num_logits
        if with_hidden:
            extra["output_hidden_states"] = [-1]
        output = self.policy.model(
            input_ids=token_ids,
            attention_mask=mask,
            use_cache=True,
            **extra,
        )
        # The last entry is after the final norm, which is what heads are fitted on.
        hidden = output.hidden_states[-1] if with_hidden else None
        return Reading(output.logits[:, -num_logits:], hidden)


class _CachedRows:
    """Rows of one model.

    Without padding no mask is passed (models then take their fastest path).
    """

    def __init__(
        self,
        policy: SinglePolicy,
        cache: RowCache,
        mask: Tensor | None,
        num_prompt_positions: int,
        length: int,
    ) -> None:
        self._policy = policy
        self._cache = cache
        self._mask = mask  # [n, capacity], true also where tokens are still to come
        self._positions = self._number(mask)
        self._num_prompt_positions = num_prompt_positions
        self._length = length
        self.num_passes = 0

    @classmethod
    def empty(
        cls, policy: SinglePolicy, prompts: EncodedPrompts, max_new_tokens: int
    ) -> _CachedRows:
        num_prompt_positions = prompts.token_ids.shape[1]
        capacity = num_prompt_positions + max_new_tokens
        cache = RowCache.empty(policy.policy.model.config, capacity)
        # Prompts of one length: models take their fastest attention without a mask.
        mask = None if bool(prompts.mask.all()) else _extend(prompts.mask, capacity)
        return cls(policy, cache, mask, num_prompt_positions, 0)

    def _number(self, mask: Tensor | None) -> Tensor | None:
        """Positions of what the mask shows; only what fills up a row can lie past the context."""
        if mask is None:
            return None
        return (mask.long().cumsum(dim=1) - 1).clamp(0, self._policy.policy.context_tokens - 1)

    def append(self, token_ids: Tensor, num_logits: int, *, with_hidden: bool) -> Reading:
        """Read [n, t] more tokens; logits at the last ``num_logits`` of them."""
        start, self._length = self._length, self._length + token_ids.shape[1]
        mask = self._mask
        if mask is not None and self._length > mask.shape[1]:
            # Doubled, as the cache is.
            self._mask = mask = _extend(mask, 2 * self._length)
            self._positions = self._number(mask)
        self.num_passes += 1
        return self._policy.call(
            token_ids,
            None if mask is None else mask[:, : self._length],
            None if self._positions is None else self._positions[:, start : self._length],
            self._cache,
            num_logits,
            with_hidden=with_hidden,
        )

    def step(self, token_ids: Tensor, *, with_hidden: bool = False) -> Step:
        return self.append(token_ids[:, None], 1, with_hidden=with_hidden).last()

    def read(self, token_ids: Tensor) -> Tensor:
        if not self._cache.reads_many:
            # One token at a time: such layers would lose their state with several.
            return torch.stack([self.step(column).logits for column in token_ids.T], dim=1)
        return self.append(token_ids, token_ids.shape[1], with_hidden=False).logits

    def read_hidden(self, token_ids: Tensor) -> Tensor:
        columns = [token_ids] if self._cache.reads_many else [c[:, None] for c in token_ids.T]
        # One position's logits, since models read 0 as all.
        read = [self.append(column, 1, with_hidden=True).hidden for column in columns]
        return torch.cat([hidden for hidden in read if hidden is not None], dim=1)

    def gather(self, rows: Tensor, *, shared_tokens: int | None = None) -> None:
        shared = 0 if shared_tokens is None else self._num_prompt_positions + shared_tokens
        self._cache.gather(rows, shared)
        if self._mask is not None:
            self._mask = self._mask[rows]
            self._positions = self._number(self._mask)

    def fork(self, rows: Tensor, max_new_tokens: int) -> _CachedRows:
        capacity = self._num_prompt_positions + max_new_tokens
        mask = None if self._mask is None else _extend(self._mask[rows], capacity)
        cache = self._cache.fork(rows, capacity)
        return _CachedRows(self._policy, cache, mask, self._num_prompt_positions, self._length)


@contextmanager
def inference(policy: DecodingPolicy) -> Generator[None]:
    """No gradients, no dropout; each model's mode is restored.

    Tensors made inside are inference tensors: only what is computed from them outside may meet
    autograd again.
    """
    training = [member.model for member in policy.members if member.model.training]
    for model in training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for model in training:
            model.train()


def as_decoding_policy(policy: Policy | DecodingPolicy) -> DecodingPolicy:
    """A plain `Policy` wrapped; anything else as it is."""
    return SinglePolicy(policy) if isinstance(policy, Policy) else policy


def _extend(mask: Tensor, capacity: int) -> Tensor:
    spare = max(capacity - mask.shape[1], 0)
    # Ones: whatever comes after the prompt is read, pads of ended rows included.
    return torch.cat([mask, mask.new_ones(mask.shape[0], spare)], dim=1)
