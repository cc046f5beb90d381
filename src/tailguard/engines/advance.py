"""The token loop: carry every row some tokens further, dropping those that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tailguard.engines.prefix import PrefixWatch
from tailguard.engines.sampling_law import SamplingLaw
from tailguard.engines.stepping import Rows

_WORTHWHILE_PASSES = 2.0
"""Rows that ended are dropped once that saves the cost of so many full passes; a drop costs one."""


@dataclass
class Advance:
    """What n rows generated in one go of at most T tokens.

    Attributes:
        token_ids: [n, T], filled up with the pad id.
        lengths: tokens generated, a stop token included [n].
        log_probs: their summed log-probability under the sampling law [n].
        stopped: whether the row ended with a stop token [n].
        left_off: whether whoever watched the row had it left off [n].
        alive: which row each row still in the batch is, increasing [m].
    """

    token_ids: Int[Tensor, "n tokens"]
    lengths: Int[Tensor, " n"]
    log_probs: Float[Tensor, " n"]
    stopped: Bool[Tensor, " n"]
    left_off: Bool[Tensor, " n"]
    alive: Int[Tensor, " m"]


def advance(
    rows: Rows,
    logits: Float[Tensor, "n vocab"],
    *,
    law: SamplingLaw,
    uniform: Float[Tensor, "n tokens"],
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    watch: PrefixWatch | None = None,
) -> Advance:
    """Generate up to ``uniform.shape[1]`` tokens in each row.

    Args:
        rows: left in the state after the last token; rows that ended may have been dropped from
            it (`Advance.alive` says which are there).
        logits: predictions of each row's first token.
        law: how tokens are chosen.
        uniform: one number in [0, 1) for each row and token.
        stop_token_ids: tokens that end a row.
        pad_token_id: fills rows that ended.
        watch: looks at the rows on their way, and may have some left off.
    """
    state = _start(uniform, logits.device, pad_token_id)
    stops = torch.tensor(list(stop_token_ids), device=logits.device, dtype=torch.long)
    ended = torch.zeros_like(state.stopped)  # in the order of state.alive
    num_ended, num_tokens = 0, uniform.shape[1]
    for t in range(num_tokens):
        # By row and position: what a row draws does not depend on who else is in the batch.
        token_ids, log_probs = law.choose(logits, uniform[state.alive, t])
        just_ended = (token_ids[:, None] == stops).any(dim=1)
        if num_ended:
            token_ids = token_ids.masked_fill(ended, pad_token_id)
            log_probs = log_probs.masked_fill(ended, 0.0)
            just_ended &= ~ended
        state.token_ids[state.alive, t] = token_ids
        state.log_probs[state.alive] += log_probs
        # int() waits for the device; without stop tokens there is nothing to wait for.
        num_just_ended = int(just_ended.sum()) if stop_token_ids else 0
        if num_just_ended:
            num_ended += num_just_ended
            ended = ended | just_ended
            state.stopped[state.alive[just_ended]] = True
            state.lengths[state.alive[just_ended]] = t + 1
        if t + 1 == num_tokens or num_ended == ended.shape[0]:
            break  # the last token need not be read
        watched = watch is not None and watch.wants(t + 1)
        step = rows.step(token_ids, with_hidden=watched)
        if watch is not None and step.hidden is not None:
            left_off = watch.read(t + 1, state.alive, ended, step.hidden)
            if left_off is not None and bool(left_off.any()):
                state.left_off[state.alive[left_off]] = True
                state.lengths[state.alive[left_off]] = t + 1
                ended = ended | left_off
                num_just_ended = int(left_off.sum())
                num_ended += num_just_ended
                if num_ended == ended.shape[0]:
                    break
        logits = step.logits
        # Rows that ended still cost their share of every pass; dropping them copies the cache.
        saved_passes = num_ended / ended.shape[0] * (num_tokens - t - 1)
        if num_just_ended and saved_passes >= _WORTHWHILE_PASSES:
            kept = (~ended).nonzero()[:, 0]
            rows.gather(kept)
            state.alive, ended, logits, num_ended = state.alive[kept], ended[kept], logits[kept], 0
    return state


def _start(uniform: Tensor, device: torch.device, pad_token_id: int) -> Advance:
    num_rows, num_tokens = uniform.shape
    return Advance(
        token_ids=torch.full((num_rows, num_tokens), pad_token_id, device=device),
        lengths=torch.full((num_rows,), num_tokens, device=device),
        log_probs=torch.zeros(num_rows, device=device),
        stopped=torch.zeros(num_rows, device=device, dtype=torch.bool),
        left_off=torch.zeros(num_rows, device=device, dtype=torch.bool),
        alive=torch.arange(num_rows, device=device),
    )
