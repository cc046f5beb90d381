"""What a policy makes of given responses: each prompt is read once, its cache forked for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tailguard.data import Prompt
from tailguard.engines.sample import tokenize_for
from tailguard.engines.self_test import as_decoding_policy
from tailguard.engines.stepping import DecodingPolicy, inference
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
    for batch, token_ids, first, rest in _passes(policy, prompts, token_rows, batch_size):
        lengths = torch.tensor([len(token_rows[i]) for i in batch])
        # Fillers after a response have logits too; they must not count.
        mask = torch.arange(token_ids.shape[1]) < lengths[:, None]
        taken = torch.cat(
            [
                _log_probs(first[:, None], token_ids[:, :1], temperature),
                _log_probs(rest[:, :-1], token_ids[:, 1:], temperature),
            ],
            dim=1,
        )
        result[batch] = torch.where(mask, taken.cpu(), 0.0).sum(dim=1)
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
    for batch, _, first, rest in _passes(policy, prompts, token_rows, batch_size, hidden=True):
        states = torch.cat([first[:, None], rest], dim=1).float().cpu()
        for row, index in enumerate(batch):
            # A clone, made outside inference mode, may meet autograd.
            result[index] = states[row, torch.tensor(positions[index], dtype=torch.long)].clone()
    return result


def _log_probs(logits: Tensor, token_ids: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of the tokens [n, t] under logits [n, t, vocab]."""
    scaled = logits.float() / temperature if temperature != 1.0 else logits.float()
    # Without the whole log-softmax, which would be a second tensor of the vocabulary's width.
    return scaled.gather(2, token_ids[:, :, None])[:, :, 0] - scaled.logsumexp(dim=2)


def _passes(
    policy: DecodingPolicy,
    prompts: Sequence[Prompt],
    token_rows: Sequence[Sequence[int]],
    batch_size: int,
    *,
    hidden: bool = False,
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
    """Responses in batches, those of one prompt together.

    Yields:
        which responses, their tokens filled up on the right [n, longest], and the logits (or the
        hidden states) after the prompt [n, width] and after each token [n, longest, width].
    """
    if len(prompts) != len(token_rows):
        raise InputError(f"token_rows: {len(token_rows)} for {len(prompts)} prompts; one for each")
    prompt_rows = tokenize_for(policy, prompts, 0)
    room = min(m.context_tokens for m in policy.members)
    for index, (prompt, response) in enumerate(zip(prompt_rows, token_rows, strict=True)):
        if len(prompt) + len(response) > room:
            raise InputError(
                f"token_rows[{index}]: prompt and response have {len(prompt) + len(response)} "
                f"tokens, the context {room}"
            )
    # By length, then by content: equal prompts come together and are read once.
    order = sorted(range(len(prompt_rows)), key=lambda i: (-len(prompt_rows[i]), prompt_rows[i]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        given = [prompt_rows[i] for i in batch], [token_rows[i] for i in batch]
        with inference(policy):
            read = _read(policy, *given, hidden)
        yield batch, *read


def _read(
    policy: DecodingPolicy,
    prompt_rows: Sequence[Sequence[int]],
    token_rows: Sequence[Sequence[int]],
    hidden: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each prompt once, then all responses in one pass."""
    member = policy.members[0]
    distinct = list(dict.fromkeys(map(tuple, prompt_rows)))
    place = {prompt: number for number, prompt in enumerate(distinct)}
    owner = torch.tensor([place[tuple(row)] for row in prompt_rows], device=member.device)
    # At least one column, since a pass over none fails in most models.
    longest = max(1, *map(len, token_rows))
    token_ids = torch.tensor(
        [[*row, *[0] * (longest - len(row))] for row in token_rows], device=member.device
    )
    encoded = pad_left(distinct, pad_token_id=member.pad_token_id, device=member.device)
    prefix, first = policy.prefill(encoded, 0, with_hidden=hidden)
    rows = prefix.fork(owner, longest)
    if not hidden:
        return token_ids, first.logits[owner], rows.read(token_ids)
    assert first.hidden is not None  # with_hidden was passed
    return token_ids, first.hidden[owner], rows.read_hidden(token_ids)
