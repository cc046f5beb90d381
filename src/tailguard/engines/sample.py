"""Plain sampling of responses: one pass over each prompt, forked into its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tailguard.data import Prompt
from tailguard.engines.advance import Advance, advance
from tailguard.engines.sampling_law import SamplingLaw, uniform_draws
from tailguard.engines.self_test import as_decoding_policy
from tailguard.engines.stepping import DecodingPolicy, Rows, inference
from tailguard.errors import InputError, ScoreError
from tailguard.models.policy import Policy, pad_left, tokenize_prompts


@dataclass(frozen=True)
class Responses:
    """n sampled responses, those of one prompt together and in the order of the prompts.

    Attributes:
        prompt_index: which prompt each answers [n].
        token_ids: [n, longest], filled up on the right; a stop token is included.
        lengths: tokens of each [n].
        texts: decoded without special tokens.
        log_probs: summed log-probability under the sampling law [n].
        finished: ended with a stop token, not by running out of tokens [n].
        num_passes: model calls made in all, prompts included.
    """

    prompt_index: Int[Tensor, " n"]
    token_ids: Int[Tensor, "n longest"]
    lengths: Int[Tensor, " n"]
    texts: list[str]
    log_probs: Float[Tensor, " n"]
    finished: Bool[Tensor, " n"]
    num_passes: int

    @cached_property
    def token_rows(self) -> list[list[int]]:
        """The token ids of each response without the filling."""
        return trimmed_rows(self.token_ids, self.lengths)


def sample_responses(  # noqa: PLR0913
    policy: Policy | DecodingPolicy,
    prompts: Sequence[Prompt],
    *,
    num_samples: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> Responses:
    """Sample ``num_samples`` responses to each prompt.

    Each prompt is read once and its cache forked. Prompts of like length share batches; what is
    drawn for a prompt depends on its position and the generator alone, not on ``batch_size``
    (up to floating-point differences between batch shapes).

    Args:
        policy: one model or a mix.
        prompts: at least one.
        num_samples: responses per prompt.
        max_new_tokens: at most so many tokens per response.
        temperature: of the sampling law; 0 is greedy.
        top_p: nucleus of the sampling law.
        generator: source of one seed per prompt (on the CPU); torch's default generator if None.
        batch_size: rows in one forward pass.
        on_progress: called with (responses done, responses in all) after each batch.

    Raises:
        InputError: no prompts, one that is empty or too long, or a count below 1.
        ScoreError: the model's predictions are NaN.
    """
    for name, count in (
        ("num_samples", num_samples),
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
    ):
        if count < 1:
            raise InputError(f"{name}: {count}; must be at least 1")
    policy, law = as_decoding_policy(policy), SamplingLaw(temperature, top_p)
    token_rows = tokenize_for(policy, prompts, max_new_tokens)
    # One draw from the caller's generator per prompt; the rest comes from these seeds.
    drawn_seeds: Any = torch.randint(2**62, (len(prompts),), generator=generator)
    seeds: list[int] = drawn_seeds.tolist()
    parts: list[_Part] = []
    num_done, num_passes = 0, 0
    with inference(policy):
        for batch in length_batches(token_rows, max(1, batch_size // num_samples)):
            uniform = uniform_draws([seeds[i] for i in batch], num_samples, max_new_tokens)
            drawn = _sample_batch(policy, [token_rows[i] for i in batch], law, uniform, batch_size)
            for first_row, advanced, made in drawn:
                num_passes += made
                rows = torch.arange(first_row, first_row + advanced.lengths.shape[0])
                index = torch.tensor(batch)[rows // num_samples] * num_samples + rows % num_samples
                parts.append(_Part(index, advanced))
                num_done += rows.shape[0]
                if on_progress is not None:
                    on_progress(num_done, len(prompts) * num_samples)
    return _assemble(policy, parts, num_samples, num_passes)


@dataclass(frozen=True)
class _Part:
    index: Tensor  # where its rows belong in the result
    advanced: Advance


def _sample_batch(
    policy: DecodingPolicy,
    token_rows: list[list[int]],
    law: SamplingLaw,
    uniform: Tensor,
    batch_size: int,
) -> Iterator[tuple[int, Advance, int]]:
    """The samples of a few prompts, chunk by chunk: first row, what was drawn, passes made."""
    member = policy.members[0]
    num_prompts, num_samples, num_tokens = uniform.shape
    encoded = pad_left(token_rows, pad_token_id=member.pad_token_id, device=member.device)
    uniform = uniform.reshape(num_prompts * num_samples, num_tokens).to(member.device)
    # With one sample the prompt's own rows grow; with more they are forked and stay short.
    prefix, first = policy.prefill(encoded, num_tokens if num_samples == 1 else 0)
    passes_made = prefix.num_passes
    for start in range(0, uniform.shape[0], batch_size):
        numbers = uniform[start : start + batch_size]
        rows: Rows = prefix
        logits = first.logits
        if num_samples > 1:
            origin = torch.arange(start, start + numbers.shape[0], device=member.device)
            origin = origin // num_samples
            rows, logits = prefix.fork(origin, num_tokens), logits[origin]
        advanced = advance(
            rows,
            logits,
            law=law,
            uniform=numbers,
            stop_token_ids=member.stop_token_ids,
            pad_token_id=member.pad_token_id,
        )
        yield start, advanced, rows.num_passes + (passes_made if num_samples > 1 else 0)
        passes_made = 0


def _assemble(
    policy: DecodingPolicy, parts: list[_Part], num_samples: int, num_passes: int
) -> Responses:
    # Batches went by length; answers go back in the order of the prompts.
    order = torch.cat([part.index for part in parts]).argsort()
    lengths = torch.cat([part.advanced.lengths for part in parts]).cpu()[order]
    token_ids = torch.cat([part.advanced.token_ids for part in parts]).cpu()[order]
    log_probs = torch.cat([part.advanced.log_probs for part in parts]).cpu()[order]
    finished = torch.cat([part.advanced.stopped for part in parts]).cpu()[order]
    if not bool(torch.isfinite(log_probs).all()):
        raise ScoreError("policy: its predictions are NaN or infinite; check the model's weights")
    token_ids = token_ids[:, : int(lengths.max())]
    return Responses(
        prompt_index=torch.arange(order.shape[0]) // num_samples,
        token_ids=token_ids,
        lengths=lengths,
        texts=decode_texts(policy, trimmed_rows(token_ids, lengths)),
        log_probs=log_probs,
        finished=finished,
        num_passes=num_passes,
    )


def trimmed_rows(token_ids: Any, lengths: Any) -> list[list[int]]:
    """Rows of a padded tensor [n, longest], each cut to its length."""
    return [row[:n] for row, n in zip(token_ids.tolist(), lengths.tolist(), strict=True)]


def decode_texts(policy: DecodingPolicy, token_rows: Sequence[Sequence[int]]) -> list[str]:
    """Texts of responses, special tokens left out."""
    tokenizer = policy.members[0].tokenizer
    return tokenizer.batch_decode(
        [list(row) for row in token_rows],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


def tokenize_for(
    policy: DecodingPolicy, prompts: Sequence[Prompt], max_new_tokens: int
) -> list[list[int]]:
    """The prompts' token ids, checked against the shortest context among the members."""
    shortest = min(policy.members, key=lambda member: member.context_tokens)
    return tokenize_prompts(shortest, prompts, max_new_tokens)


def length_batches(token_rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of ``size``, longest first, so that little padding is needed."""
    # Longest first, so that a batch that does not fit in memory fails at once.
    order = sorted(range(len(token_rows)), key=lambda i: -len(token_rows[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
