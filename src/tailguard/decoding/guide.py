"""Value guidance: blockwise best-of-K on one cache (controlled decoding, 2310.17022).

K candidates grow from one prefix for a block of tokens. Each is scored on the hidden state of its
last token, in the pass that also predicts its next one; the winner's cache is gathered into all K
rows and the next block begins. The score is pessimistic:

    lower bound on reward − λ′ · upper bound on E φ_ν′(C).

A candidate that ends keeps its score. It wins once no unfinished candidate of its prompt scores
higher; until then it is held in reserve and may still be the answer later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from tailguard.data import Prompt
from tailguard.decoding.guidance import Candidate, Guidance, GuidedResponse
from tailguard.engines.advance import Advance, advance
from tailguard.engines.sample import decode_texts, length_batches, tokenize_for
from tailguard.engines.sampling_law import SamplingLaw, uniform_draws
from tailguard.engines.self_test import as_decoding_policy
from tailguard.engines.stepping import DecodingPolicy, Rows, Step, inference
from tailguard.errors import InputError
from tailguard.models.policy import Policy, pad_left
from tailguard.values.prefix_score import PrefixScore


def guide_responses(
    policy: Policy | DecodingPolicy,
    prompts: Sequence[Prompt],
    guidance: Guidance,
    *,
    max_new_tokens: int,
    law: SamplingLaw,
    seeds: Sequence[int],
    batch_size: int = 64,
) -> list[GuidedResponse]:
    """Guided responses, one result per prompt, in order.

    What is drawn for a prompt depends on its own seed alone, so the other prompts of the call do
    not change its answer (up to floating-point differences between batch shapes).

    Args:
        policy: one model or a mix.
        prompts: at least one.
        guidance: how candidates are grown and chosen.
        max_new_tokens: at most so many tokens per response.
        law: how tokens are drawn.
        seeds: one for each prompt.
        batch_size: rows (prompts × candidates) in one forward pass.

    Raises:
        InputError: no prompts, one that is empty or too long, or a wrong number of seeds.
    """
    if len(seeds) != len(prompts):
        raise InputError(f"seeds: {len(seeds)} for {len(prompts)} prompts; one for each")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens}; must be at least 1")
    policy = as_decoding_policy(policy)
    token_rows = tokenize_for(policy, prompts, max_new_tokens)
    result: dict[int, GuidedResponse] = {}
    with inference(policy):
        # K rows per prompt: the batch holds that many fewer prompts.
        for batch in length_batches(token_rows, max(1, batch_size // guidance.num_candidates)):
            uniform = uniform_draws(
                [seeds[i] for i in batch], guidance.num_candidates, max_new_tokens
            )
            search = _Search(policy, guidance, law, [token_rows[i] for i in batch], uniform)
            result.update(zip(batch, search.run(), strict=True))
    return [result[i] for i in range(len(prompts))]


class _Frontier(NamedTuple):
    """The K candidates of each of P prompts still under way, after t tokens."""

    prompts: Tensor  # which prompt of the batch each is [P]
    logits: Tensor  # [P·K, vocab]
    token_ids: Tensor  # [P, K, T]; the first t are common to the K
    uniform: Tensor  # [P, K, T]
    reserve: Tensor  # best score among ended candidates [P]
    num_tokens: int  # t


class _Search:
    """Guidance of one batch of prompts."""

    def __init__(
        self,
        policy: DecodingPolicy,
        guidance: Guidance,
        law: SamplingLaw,
        token_rows: list[list[int]],
        uniform: Tensor,
    ) -> None:
        self._policy = policy
        self._guidance = guidance
        self._law = law
        self._member = policy.members[0]
        self._token_rows = token_rows
        self._uniform = uniform.to(self._member.device)
        self._results = [
            GuidedResponse((), False, guidance.num_candidates, len(row), 0, 0) for row in token_rows
        ]

    def run(self) -> list[GuidedResponse]:
        """Grow all prompts to their end."""
        rows, frontier, num_prompt_passes = self._open()
        open_frontier: _Frontier | None = frontier
        while open_frontier is not None:
            open_frontier = self._grow_block(rows, open_frontier, num_prompt_passes)
        texts = decode_texts(
            self._policy, [c.token_ids for result in self._results for c in result.candidates]
        )
        decoded = iter(texts)
        return [
            replace(r, candidates=tuple(replace(c, text=next(decoded)) for c in r.candidates))
            for r in self._results
        ]

    def _open(self) -> tuple[Rows, _Frontier, int]:
        """Read the prompts once and fork their caches."""
        num_prompts, num_candidates, num_tokens = self._uniform.shape
        member = self._member
        encoded = pad_left(self._token_rows, pad_token_id=member.pad_token_id, device=member.device)
        prompts = torch.arange(num_prompts, device=member.device)
        rows, step = self._policy.prefill(encoded, num_tokens if num_candidates == 1 else 0)
        logits, num_prompt_passes = step.logits, 0
        if num_candidates > 1:
            origin = prompts.repeat_interleave(num_candidates)
            num_prompt_passes = rows.num_passes
            rows, logits = rows.fork(origin, num_tokens), logits[origin]
        token_ids = torch.full_like(self._uniform, member.pad_token_id, dtype=torch.long)
        reserve = torch.full((num_prompts,), float("-inf"), device=member.device)
        frontier = _Frontier(prompts, logits, token_ids, self._uniform, reserve, 0)
        return rows, frontier, num_prompt_passes

    def _grow_block(
        self, rows: Rows, frontier: _Frontier, num_prompt_passes: int
    ) -> _Frontier | None:
        """One block: grow, score, retire prompts that are done, fork the winners of the others."""
        num_tokens = frontier.token_ids.shape[2]
        scored = self._guidance.score_prefix is not None
        start = frontier.num_tokens
        # Without scores there is nothing to choose by, so the answer grows in one go.
        end = min(start + self._guidance.block_tokens, num_tokens) if scored else num_tokens
        advanced = advance(
            rows,
            frontier.logits,
            law=self._law,
            uniform=frontier.uniform[:, :, start:end].flatten(0, 1),
            stop_token_ids=self._member.stop_token_ids,
            pad_token_id=self._member.pad_token_id,
            read_last=scored,
        )
        shape = frontier.token_ids.shape[:2]
        frontier.token_ids[:, :, start:end] = advanced.token_ids.view(*shape, -1)
        bounds = self._guidance.bounds(advanced)
        scores = (bounds.reward_lower - self._guidance.multiplier * bounds.penalty_upper).view(
            shape
        )
        # One candidate without a finite score fails its prompt: it may be the harmful one.
        sound = torch.isfinite(scores) & torch.isfinite(advanced.log_probs).view(shape)
        ended = advanced.stopped.view(shape) | (end == num_tokens)
        failed = ~sound.all(dim=1)
        self._record(
            _Block(frontier, advanced, bounds, scores, ended, failed),
            num_prompt_passes + rows.num_passes,
        )
        ended_score = scores.masked_fill(~ended, float("-inf")).amax(dim=1)
        frontier = frontier._replace(
            reserve=torch.maximum(frontier.reserve, ended_score), num_tokens=end
        )
        best, winner = scores.masked_fill(ended, float("-inf")).max(dim=1)
        going = (best > frontier.reserve) & ~failed
        if not bool(going.any()):
            return None
        return _fork_winners(rows, frontier, advanced, going.nonzero()[:, 0], winner, start)

    def _record(self, block: _Block, num_passes: int) -> None:
        """Add a block's work and ended candidates to the results of its prompts."""
        num_tokens = _as_ints(block.advanced.lengths.view(block.ended.shape).sum(dim=1))
        for row, prompt in enumerate(_as_ints(block.frontier.prompts)):
            result = self._results[prompt]
            pool = [*result.candidates, *block.ended_candidates(row)]
            pool.sort(key=lambda candidate: -candidate.score)
            failed = bool(block.failed[row])
            self._results[prompt] = replace(
                result,
                candidates=() if failed else tuple(pool[: self._guidance.num_finalists]),
                failed=failed,
                num_tokens_generated=result.num_tokens_generated + num_tokens[row],
                num_forward_passes=num_passes,
            )


def _fork_winners(
    rows: Rows,
    frontier: _Frontier,
    advanced: Advance,
    kept: Tensor,
    winner: Tensor,
    start: int,
) -> _Frontier:
    """All K rows of each kept prompt become its winner, whose block began at ``start``."""
    num_prompts, num_candidates, _ = frontier.token_ids.shape
    place = torch.zeros(num_prompts * num_candidates, device=kept.device, dtype=torch.long)
    place[advanced.alive] = torch.arange(advanced.alive.shape[0], device=kept.device)
    source = place[kept * num_candidates + winner[kept]].repeat_interleave(num_candidates)
    # With every row still in its place, the K rows of a prompt differ in this block only.
    in_place = advanced.alive.shape[0] == place.shape[0] == source.shape[0]
    rows.gather(source, shared_tokens=start if in_place else None)
    return _Frontier(
        frontier.prompts[kept],
        cast(Step, advanced.step).logits[source],
        frontier.token_ids[kept, winner[kept]][:, None].repeat(1, num_candidates, 1),
        frontier.uniform[kept],
        frontier.reserve[kept],
        frontier.num_tokens,
    )


@dataclass(frozen=True)
class _Block:
    """What one block brought, each [P, K] or [P]."""

    frontier: _Frontier
    advanced: Advance
    bounds: PrefixScore
    scores: Tensor
    ended: Tensor
    failed: Tensor

    def ended_candidates(self, row: int) -> list[Candidate]:
        """The candidates of the row-th prompt that ended in this block, their texts still empty."""
        shape = self.ended.shape
        lengths = self.frontier.num_tokens + self.advanced.lengths.view(shape)[row]
        reward, penalty = (bound.view(shape)[row] for bound in self.bounds)
        return [
            Candidate(
                token_ids=_as_ints(self.frontier.token_ids[row, k, : int(lengths[k])]),
                text="",
                score=float(self.scores[row, k]),
                reward_lower=float(reward[k]),
                penalty_upper=float(penalty[k]),
                finished=bool(self.advanced.stopped.view(shape)[row, k]),
            )
            for k in _as_ints(self.ended[row].nonzero()[:, 0])
        ]


def _as_ints(tensor: Any) -> list[int]:
    return tensor.tolist()
