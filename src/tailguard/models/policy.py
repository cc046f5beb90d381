"""A policy: a causal language model with its tokenizer; loading it, and giving it prompts.

Only the standard Hugging Face interface is used, so any causal LM with a tokenizer will do.
A tokenizer with a chat template renders prompts as chats; one without continues plain text.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError, first_line
from tailguard.models.adapter import merge_adapter_folder
from tailguard.models.chat_text import render_prompt
from tailguard.models.chat_tokens import encode_chats
from tailguard.models.checkpoint import require_checkpoint
from tailguard.models.device import find_device, find_dtype
from tailguard.models.generation import check_end_ids, use_plain_law
from tailguard.models.library import (
    LanguageModel,
    Tokenizer,
    load_causal_lm,
    load_tokenizer,
    require_decoder,
    special_token_id,
)
from tailguard.models.quiet import quiet_transformers
from tailguard.models.tokenizer_check import (
    check_template,
    check_token_ids,
    ensure_end_token,
    num_embeddings,
)

__all__ = [
    "EncodedPrompts",
    "Policy",
    "encode_prompts",
    "load_policy",
    "pad_left",
    "render_prompt",
    "tokenize_prompts",
]

_log = logging.getLogger(__name__)
_UNBOUNDED_TOKENS = 10**9  # tokenizers give 1e30 where no limit is known


@dataclass(frozen=True)
class Policy:
    """A causal LM and its tokenizer.

    Attributes:
        model: any Hugging Face causal LM.
        tokenizer: the tokenizer it was trained with.
    """

    model: LanguageModel
    tokenizer: Tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that the output layer reads."""
        layer = self.model.get_output_embeddings()
        weight = getattr(layer, "weight", None)
        # In some models it is not the layers' own width (OPT-350m projects before it).
        if isinstance(weight, Tensor) and weight.dim() == 2:
            return int(weight.shape[1])
        return int(self.model.config.get_text_config().hidden_size)

    @cached_property
    def num_token_ids(self) -> int:
        """One more than the largest id that the tokenizer knows; models' outputs may be wider."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @cached_property
    def absent_token_ids(self) -> tuple[int, ...]:
        """The ids below `num_token_ids` that no token has."""
        present = set(self.tokenizer.get_vocab().values())
        return tuple(i for i in range(self.num_token_ids) if i not in present)

    @property
    def context_tokens(self) -> int:
        """The most tokens, prompt and response together, that the model takes."""
        config = self.model.config.get_text_config()
        # Recurrent models have no positions; the tokenizer may know the length of training.
        limit = getattr(config, "max_position_embeddings", None)
        if limit is None:
            limit = getattr(self.tokenizer, "model_max_length", _UNBOUNDED_TOKENS)
        return min(int(limit), _UNBOUNDED_TOKENS)

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The ids that end a response: the tokenizer's and the generation config's."""
        generation = getattr(self.model, "generation_config", None)
        configured: int | Sequence[int] | None = getattr(generation, "eos_token_id", None)
        listed = configured if isinstance(configured, Sequence) else [configured]
        # Chat models often end turns with another token than the tokenizer's.
        ids = [special_token_id(self.tokenizer, "eos"), *listed]
        return tuple(sorted({int(i) for i in ids if i is not None}))

    @property
    def pad_token_id(self) -> int:
        """The id that fills up rows; its value never matters, for it is masked."""
        for candidate in (special_token_id(self.tokenizer, "pad"), *self.stop_token_ids):
            if candidate is not None:
                return int(candidate)
        # No pad and no end token: any id will do, for the mask hides it.
        return 0


class EncodedPrompts(NamedTuple):
    """Left-padded prompts: ids and the mask that is true on their own tokens, both [n, length]."""

    token_ids: Int[Tensor, "n length"]
    mask: Bool[Tensor, "n length"]


def load_policy(
    path: str | Path,
    adapter: Path | None = None,
    *,
    trust_remote_code: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> Policy:
    """Load a causal LM from a folder or a hub name, in evaluation mode.

    Args:
        path: the checkpoint; weights must be safetensors.
        adapter: a peft LoRA adapter, merged into the weights where that changes nothing else.
        trust_remote_code: let the checkpoint's own Python run.
        device: where to put it; see `tailguard.models.device.find_device`.
        dtype: precision of the weights; ``auto`` is float32 on a CPU, elsewhere that of the
            checkpoint.

    Raises:
        InputError: nothing there, not a causal LM, weights that are not safetensors, or an adapter
            that is not whole.
    """
    place = find_device(device)
    precision = find_dtype(dtype, place)
    require_checkpoint(path, "policy")
    name = f"policy {str(path)!r}"
    with readable(name), quiet_transformers():
        require_decoder(str(path), trust_remote_code=trust_remote_code)
        # First, for it takes a moment, and a faulty template is told before weights are read.
        tokenizer = load_tokenizer(str(path), trust_remote_code=trust_remote_code)
        check_template(tokenizer)
        model, missing, unused = load_causal_lm(
            str(path), device=place, dtype=precision, trust_remote_code=trust_remote_code
        )
    # Transformers fills them with random numbers and would answer nonsense.
    if missing:
        raise InputError(
            f"{name} is not a complete causal LM: it has no weights for {missing[0]!r}; give a"
            " checkpoint saved from AutoModelForCausalLM"
        )
    if unused:
        _log.warning(
            "%s: %d weights of the checkpoint, such as %r, have no place in %s and are left out;"
            " check config.json if they should count",
            name,
            len(unused),
            unused[0],
            type(model).__name__,
        )
    for line in use_plain_law(model):
        _log.warning("%s: %s", name, line)
    policy = Policy(model, tokenizer)
    try:
        check_token_ids(model, tokenizer)
        check_end_ids(model)
        ensure_end_token(tokenizer, policy.stop_token_ids)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if adapter is not None:
        policy = replace(policy, model=merge_adapter_folder(model, Path(adapter)).eval())
    _check_causal(policy.model, str(path))
    return policy


@contextmanager
def readable(name: str) -> Generator[None]:
    """Whatever the library raises at a checkpoint that it cannot read, as one line."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # configs and damaged files make libraries raise all kinds
        plain = isinstance(error, OSError | ValueError | ImportError)
        kind = "" if plain else f"{type(error).__name__}: "
        raise InputError(
            f"{name} cannot be loaded: {kind}{first_line(error)}; see that config.json, the"
            " tokenizer's files and all weights are whole"
        ) from error


def encode_prompts(
    policy: Policy, prompts: Sequence[Prompt], max_new_tokens: int = 0
) -> EncodedPrompts:
    """Prompts as left-padded token ids on the policy's device.

    Args:
        policy: whose tokenizer and context hold.
        prompts: at least one.
        max_new_tokens: room the response needs in the context.

    Raises:
        InputError: no prompts, an empty one, or one too long (index and lengths are named).
    """
    rows = tokenize_prompts(policy, prompts, max_new_tokens)
    return pad_left(rows, pad_token_id=policy.pad_token_id, device=policy.device)


def tokenize_prompts(
    policy: Policy, prompts: Sequence[Prompt], max_new_tokens: int = 0
) -> list[list[int]]:
    """The token ids of each prompt, not padded; arguments and errors of `encode_prompts`."""
    if len(prompts) == 0:
        raise InputError("prompts is empty: give at least one prompt")
    rows = encode_chats(policy.tokenizer, prompts)
    # Refused, not cut: a prompt without its end, or its beginning, is another prompt.
    room = policy.context_tokens - max_new_tokens
    known = num_embeddings(policy.model)
    for index, row in enumerate(rows):
        if not row:
            raise InputError(f"prompts[{index}] has no tokens: give a prompt that is not empty")
        if max(row) >= known:
            raise InputError(
                f"prompts[{index}] holds token {max(row)}, for which the model has no embedding"
                f" ({known} in all); leave it out"
            )
        if len(row) > room:
            raise InputError(
                f"prompts[{index}] is too long: {len(row)} tokens, but a context of "
                f"{policy.context_tokens} leaves {max(room, 0)} after max_new_tokens="
                f"{max_new_tokens}; shorten the prompt or lower max_new_tokens"
            )
    return rows


def pad_left(
    rows: Sequence[Sequence[int]], *, pad_token_id: int, device: torch.device | str = "cpu"
) -> EncodedPrompts:
    """Rows of token ids, [n, longest], filled up on the left."""
    length = max(len(row) for row in rows)
    token_ids = torch.tensor(
        [[pad_token_id] * (length - len(row)) + list(row) for row in rows], dtype=torch.long
    )
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(length)[None, :] >= (length - lengths)[:, None]
    return EncodedPrompts(token_ids.to(device), mask.to(device))


def _check_causal(model: LanguageModel, name: str) -> None:
    """A later token must not change an earlier prediction."""
    # Two rows that differ in the second token only; the first prediction must be the same.
    probe = torch.tensor([[1, 0], [1, 1]], device=model.device)
    with torch.no_grad():
        first = model(input_ids=probe).logits[:, 0]
    if not bool(torch.isfinite(first).any()) or bool(first.isnan().any()):
        raise ScoreError(f"policy {name!r}: its predictions are NaN; check the model's weights")
    if not torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-3):
        raise InputError(f"policy {name!r} is not causal: its predictions depend on later tokens")
