"""What decodes: one model, or a weighted mix of several, behind the same two seams.

`DecodingPolicy` encodes prompts and opens `Rows`; `Rows` take one token each per step and can be
gathered and forked. Sampling and guidance know nothing else about models.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tailguard.models.policy import EncodedPrompts, Policy


class Step(NamedTuple):
    """Predictions after the newest token of each row.

    Attributes:
        logits: of the next token [n, vocab].
        hidden: what meets the output layer [n, hidden], where asked for.
    """

    logits: Float[Tensor, "n vocab"]
    hidden: Float[Tensor, "n hidden"] | None


class Reading(NamedTuple):
    """What one pass over several tokens gave.

    Attributes:
        logits: of the tokens that follow the last few of them [n, logits, vocab].
        hidden: what meets the output layer after each [n, tokens, hidden], where asked for.
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
