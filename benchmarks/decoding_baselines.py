"""Rivals of the decoder, as far as their papers' rules go.

On stored draws where a rule only chooses among whole answers, and live where it grows them block by
block. What each serves is an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from decoding_pools import FreshDraws, Point, Run, score

from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import Outcome, Rule, fit_prior, simulate
from tailguard.engines.sample import decode_texts, tokenize_for
from tailguard.engines.sampling_law import SamplingLaw, uniform_draws
from tailguard.engines.stepping import inference
from tailguard.models.policy import pad_left

SIZES = (2, 4, 8, 16)
LEVEL_SHARES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
PENALTIES = (0.3, 1.0, 3.0)
PRICES = (0.003, 0.01, 0.03, 0.1)
_PROPOSALS = 4  # of one block, before the best of them is taken
_NO_LIMIT = np.inf

Served = tuple[str, Callable[[Pool], Outcome]]


def levels(pool: Pool) -> list[float]:
    """Acceptance levels, from a strict one to nearly none, at quantiles of a pool's bounds."""
    return np.quantile(pool.cost_bound, LEVEL_SHARES).tolist()


def on_draws(calibration: Pool) -> dict[str, list[Served]]:
    """Rules that choose among whole answers, by family; levels and priors are from calibration."""
    first = calibration.num_draws
    cuts = levels(calibration)

    def ranked(size: int, penalty: float, level: float = _NO_LIMIT) -> Callable[[Pool], Outcome]:
        return lambda pool: pick(pool, pool.reward - penalty * pool.cost, size, level)

    def drawn_on(level: float, price: float) -> Callable[[Pool], Outcome]:
        admissible = calibration.cost_bound <= level
        prior = fit_prior(calibration.reward, admissible, calibration.num_tokens)
        return lambda pool: simulate(pool, Rule(level, price, first, prior))

    def entropic(size: int, sharpness: float) -> Callable[[Pool], Outcome]:
        # DARC ranks by −1/t·log E exp(−t·(r − c)) over raters; a normal spread gives mean − t/2·var.
        return lambda pool: pick(
            pool, pool.reward - pool.cost - 0.5 * sharpness * pool.spread**2, size, _NO_LIMIT
        )

    return {
        "plain": [("1", ranked(1, 0.0))],
        "best-of-N": [(f"N={n}", ranked(n, 0.0)) for n in SIZES],
        "LARA-like": [(f"N={n}, λ={p:g}", ranked(n, p)) for n in SIZES for p in PENALTIES],
        "DARC-like": [(f"N={n}, t={t:g}", entropic(n, t)) for n in SIZES for t in (1.0, 10.0)],
        "filtered best-of-N": [
            (f"N={n}, a={a:.2f}", ranked(n, 0.0, a)) for n in SIZES for a in cuts
        ],
        "rejection": [(f"a={a:.2f}", drawn_on(a, np.inf)) for a in cuts],
        "BEACON-like": [(f"price={p:g}", drawn_on(_NO_LIMIT, p)) for p in PRICES],
    }


def pick(pool: Pool, worth: np.ndarray, size: int, level: float) -> Outcome:
    """The worthiest of the first ``size`` draws within the level; the fallback where none is."""
    worth = np.where(pool.cost_bound[:, :size] <= level, worth[:, :size], -np.inf)
    served = np.where(np.isfinite(worth).any(axis=1), worth.argmax(axis=1), -1)
    return outcome_of(
        pool, served, np.full(pool.num_prompts, size), pool.num_tokens[:, :size].sum(1)
    )


def outcome_of(
    pool: Pool, served: np.ndarray, num_draws: np.ndarray, tokens: np.ndarray
) -> Outcome:
    """What was served, from the number of the draw."""
    rows = np.arange(pool.num_prompts)

    def taken(draws: np.ndarray | None, fallback: np.ndarray | None) -> np.ndarray:
        assert draws is not None
        assert fallback is not None
        return np.where(served >= 0, draws[rows, served], fallback)

    return Outcome(
        served,
        num_draws,
        tokens.astype(float),
        taken(pool.reward, pool.fallback_reward),
        taken(pool.cost_bound, pool.fallback_cost_bound),
        taken(pool.judged_reward, pool.fallback_judged_reward),
        taken(pool.judged_cost, pool.fallback_judged_cost),
    )


def speculative(checkpoints: Sequence[int]) -> list[tuple[str, Callable[[FreshDraws], Outcome]]]:
    """Speculative Rejection (2410.20290): of N under way, the worse half is dropped at each checkpoint."""
    settings = [(n, p) for n in (4, 8, 16) for p in (0.0, *PENALTIES)]
    return [
        (f"N={n}, λ={p:g}", lambda draws, n=n, p=p: _halved(draws, checkpoints, n, p))
        for n, p in settings
    ]


def _halved(draws: FreshDraws, checkpoints: Sequence[int], size: int, penalty: float) -> Outcome:
    pool = draws.pool
    alive = np.ones((pool.num_prompts, size), dtype=bool)
    tokens = np.zeros((pool.num_prompts, size))
    for k, mark in enumerate(checkpoints):
        tokens = np.where(alive, np.minimum(pool.num_tokens[:, :size], mark), tokens)
        partial = draws.partial_reward[:, :size, k] - penalty * draws.partial_bound[:, :size, k]
        partial = np.where(alive, partial, -np.inf)
        keep = max(1, int(alive[0].sum()) // 2)
        last = -np.sort(-partial, axis=1)[:, keep - 1 : keep]
        alive &= partial >= last
    tokens = np.where(alive, pool.num_tokens[:, :size], tokens)
    worth = pool.reward[:, :size] - penalty * pool.cost_bound[:, :size]
    served = np.where(alive, worth, -np.inf).argmax(axis=1)
    return outcome_of(pool, served, np.full(pool.num_prompts, size), tokens.sum(axis=1))


def blockwise(
    run: Run, prompts: Sequence[str], point: Point, seed: int
) -> Iterator[tuple[str, Outcome]]:
    """Controlled Decoding block by block (2310.17022), with the full scorers reading each prefix.

    Of K continuations by a block the one of the largest r − λ·u goes on; all K count as tokens.
    """
    for size, block, penalty in ((2, 8, 1.0), (4, 8, 0.0), (4, 8, 1.0), (4, 8, 3.0)):
        yield (
            f"K={size}, {block} tokens, λ={penalty:g}",
            _grow(run, prompts, point, size, block, penalty, None, seed),
        )


def cards(
    run: Run, prompts: Sequence[str], point: Point, seed: int
) -> Iterator[tuple[str, Outcome]]:
    """CARDS-like (2406.16306): blocks are proposed until one is accepted with P = exp((v − τ)/β), at most 1."""
    for threshold, penalty in ((0.5, 0.0), (0.5, 1.0), (1.5, 1.0), (1.5, 3.0)):
        yield (
            f"τ={threshold:g}, λ={penalty:g}",
            _grow(run, prompts, point, _PROPOSALS, 8, penalty, threshold, seed),
        )


def _grow(
    run: Run,
    prompts: Sequence[str],
    point: Point,
    size: int,
    block: int,
    penalty: float,
    threshold: float | None,
    seed: int,
) -> Outcome:
    """Answers grown by blocks: the best of ``size`` goes on, or the first that is accepted."""
    setting, policy = run.dial.setting, run.soup.at(point)
    member = policy.members[0]
    num, limit = len(prompts), setting.max_new_tokens
    law = SamplingLaw(setting.temperature, setting.top_p)
    chance = np.random.default_rng(seed).random((limit, num, size))
    stops = torch.tensor(list(member.stop_token_ids))
    token_rows = tokenize_for(policy, prompts, limit)
    with inference(policy):
        encoded = pad_left(token_rows, pad_token_id=member.pad_token_id, device=member.device)
        rows, step = policy.prefill(encoded, 0)
        first = torch.arange(num).repeat_interleave(size)
        rows, logits = rows.fork(first, limit), step.logits[first]
        uniform = uniform_draws(list(range(seed, seed + num * size)), 1, limit)[:, 0]
        answer: list[list[int]] = [[] for _ in range(num * size)]
        ended = torch.zeros(num * size, dtype=torch.bool)
        tokens = np.zeros(num)
        while len(max(answer, key=len)) < limit and not bool(ended.all()):
            before = [len(row) for row in answer]
            start = max(before)
            for t in range(start, min(start + block, limit)):
                ids, _ = law.choose(logits, uniform[:, t])
                for i in (~ended).nonzero()[:, 0].tolist():
                    answer[i].append(int(ids[i]))
                ended = ended | (ids[:, None] == stops).any(dim=1)
                if t + 1 < limit:
                    logits = rows.step(ids).logits
            texts = decode_texts(policy, answer)
            found = score(run, [prompts[i] for i in first.tolist()], texts, judged=False)
            value = (found["reward"] - penalty * found["cost_bound"]).reshape(num, size)
            made = np.array([len(a) - b for a, b in zip(answer, before, strict=True)])
            best, counted = _choice(value, made.reshape(num, size), threshold, chance[start])
            tokens += counted
            taken = torch.as_tensor(np.repeat(np.arange(num) * size + best, size))
            rows.gather(taken)
            logits, ended = logits[taken], ended[taken]
            answer = [list(answer[i]) for i in taken.tolist()]
    texts = decode_texts(policy, answer)[::size]
    figures = score(run, prompts, texts)
    return Outcome(
        np.zeros(num, dtype=int),
        np.ones(num, dtype=int),
        tokens,
        figures["reward"],
        figures["cost_bound"],
        figures["judged_reward"],
        figures["judged_cost"],
    )


def _choice(
    value: np.ndarray, made: np.ndarray, threshold: float | None, chance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which continuation goes on, and the tokens that were made for it."""
    if threshold is None:
        return value.argmax(axis=1), made.sum(axis=1)
    accepted = np.log(chance) <= (value - threshold) / 0.5
    some = accepted.any(axis=1)
    best = np.where(some, accepted.argmax(axis=1), value.argmax(axis=1))
    upto = np.arange(value.shape[1]) <= np.where(some, best, value.shape[1])[:, None]
    return best, np.where(upto, made, 0).sum(axis=1)
