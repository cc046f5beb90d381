"""What a policy makes of given responses: one forward pass over prompt and response together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tailguard.data import Prompt
from tailguard.decoding.engine import length_batches, tokenize_for
from tailguard.decoding.stepping import (
    DecodingPolicy,
    FullPass,
    as_decoding_policy,
    inference,
)
from tailguard.errors import InputError
from tailguard.models.policy import Policy, pad_left


def response_log_probs(
    policy: Policy | DecodingPolicy,
    prompts: Sequence[Prompt],
    token_rows: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> Float[Tensor, " n"]:
    """Log π(response | prompt), summed over the response's tokens.

    Args:
        policy: one model or a mix.
        prompts: one for each response.
        token_rows: the responses' token ids, stop token included where they have one.
        temperature: of the law; positive.
        batch_size: sequences in one forward pass.

    Raises:
        InputError: as `response_hidden_states`, or a temperature that is not positive.
    """
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"temperature: {temperature}; must be positive and finite")
    result = torch.zeros(len(token_rows))
    policy = as_decoding_policy(policy)
    for batch, responses, full in _passes(policy, prompts, token_rows, batch_size):
        num_tokens = full.logits.shape[1] - 1
        targets = torch.zeros(len(batch), num_tokens, dtype=torch.long)
        mask = torch.zeros(len(batch), num_tokens, dtype=torch.bool)
        for row, response in enumerate(responses):
            targets[row, num_tokens - len(response) :] = torch.tensor(response)
            mask[row, num_tokens - len(response) :] = True
        log_probs = (full.logits[:, :-1].float() / temperature).log_softmax(dim=-1)
        taken = log_probs.gather(2, targets.to(log_probs.device)[:, :, None])[:, :, 0].cpu()
        result[batch] = torch.where(mask, taken, 0.0).sum(dim=1)
    return result


def response_hidden_states(
    policy: Policy | DecodingPolicy,
    prompts: Sequence[Prompt],
    token_rows: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
) -> list[Float[Tensor, "positions hidden"]]:
    """Final (post-norm) hidden states after chosen numbers of response tokens.

    They are the states that guidance meets when it decodes: ``positions[i]`` holds prefix lengths
    in 0 … len(token_rows[i]), where 0 is the state at the prompt's last token and the full length
    the state at the response's last.

    Args:
        policy: one model or a mix (states side by side).
        prompts: one for each response.
        token_rows: the responses' token ids.
        positions: prefix lengths for each response.
        batch_size: sequences in one forward pass.

    Raises:
        InputError: lists of different lengths, a position outside its response, an empty prompt,
            or a sequence that exceeds the context.
    """
    if len(positions) != len(token_rows):
        raise InputError(f"positions: {len(positions)} for {len(token_rows)} responses")
    for index, (wanted, response) in enumerate(zip(positions, token_rows, strict=True)):
        if any(not 0 <= position <= len(response) for position in wanted):
            raise InputError(
                f"positions[{index}]: {list(wanted)}; must lie in 0 … {len(response)}, the tokens "
                "of the response"
            )
    result: list[Tensor] = [torch.empty(0)] * len(token_rows)
    policy = as_decoding_policy(policy)
    for batch, responses, full in _passes(policy, prompts, token_rows, batch_size):
        for row, (index, response) in enumerate(zip(batch, responses, strict=True)):
            from_end = torch.tensor(positions[index], dtype=torch.long) - len(response) - 1
            # A clone, made outside inference mode, may meet autograd.
            result[index] = full.hidden[row, from_end].float().cpu().clone()
    return result


def _passes(
    policy: DecodingPolicy,
    prompts: Sequence[Prompt],
    token_rows: Sequence[Sequence[int]],
    batch_size: int,
) -> Iterator[tuple[list[int], list[list[int]], FullPass]]:
    """Forward passes over prompt + response, aligned at their ends.

    Each covers the response and the position before it: the last ``longest response + 1``.
    """
    if len(prompts) != len(token_rows):
        raise InputError(f"token_rows: {len(token_rows)} for {len(prompts)} prompts; one for each")
    member = policy.members[0]
    prompt_rows = tokenize_for(policy, prompts, 0)
    sequences = [[*p, *r] for p, r in zip(prompt_rows, token_rows, strict=True)]
    room = min(m.context_tokens for m in policy.members)
    for index, sequence in enumerate(sequences):
        if len(sequence) > room:
            raise InputError(
                f"token_rows[{index}]: prompt and response have {len(sequence)} tokens, the "
                f"context {room}"
            )
    for batch in length_batches(sequences, batch_size):
        responses = [list(token_rows[i]) for i in batch]
        encoded = pad_left(
            [sequences[i] for i in batch],
            pad_token_id=member.pad_token_id,
            device=member.device,
        )
        num_positions = max(len(response) for response in responses) + 1
        with inference(policy):
            full = policy.full_pass(encoded, num_positions)
        yield batch, responses, full
