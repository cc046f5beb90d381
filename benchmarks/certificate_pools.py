"""Scored draws of a run's soups for `certificates.py`, and what an entry of a dial serves from them.

Draws of a prompt are independent and alike, so each rotation of their order is another run of the
decoder: prompts times rotations are the population that certificates are simulated on, and its tail is
known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tailguard.artifacts import find_artifact
from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.decoding.dial import DialEntry
from tailguard.decoding.joint import MeasuredPoint
from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import simulate
from tailguard.decoding.worth import AnswerScores, AnswerWorth
from tailguard.engines import SamplingLaw, response_log_probs
from tailguard.engines.draws import StartedPrompts
from tailguard.engines.soup import SoupPolicy
from tailguard.lab import sandbox
from tailguard.pipeline.plan_artifact import read_plan
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.sources import policy_path
from tailguard.pipeline.stages.train import policy_directories, trained_adapter
from tailguard.scorers.pessimism import ScorerPair

POINTS = ((1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0), (-0.5, 1.5))
_PART = 4096  # answers that are scored at once


@dataclass(frozen=True, eq=False)
class Served:
    """What an entry serves over the population, and what of it is the fallback.

    Attributes:
        prompt: number of the prompt of each row.
        scorer: u(y).
        judge: the truth.
        abstained: whether it is the fallback.
        level: acceptance level.
    """

    prompt: np.ndarray
    scorer: np.ndarray
    judge: np.ndarray
    abstained: np.ndarray
    level: float


def served(measured: MeasuredPoint, entry: DialEntry, worth: AnswerWorth) -> Served:
    """The population of an entry: every prompt with every rotation of its draws."""
    pool = measured.pool
    utility = worth.utility(AnswerScores.of_pool(pool), entry.penalty)
    parts = []
    for shift in range(pool.num_draws):
        turned = rotated(pool, np.full(pool.num_prompts, shift))
        found = simulate(turned, entry.rule, np.roll(utility, -shift, axis=1))
        parts.append((found.cost_bound, found.judged_cost, found.served < 0))
    scorer, judge, abstained = (np.concatenate(part) for part in zip(*parts, strict=True))
    prompt = np.tile(np.arange(pool.num_prompts), pool.num_draws)
    return Served(prompt, scorer, judge, abstained, entry.rule.level)


def rotated(pool: Pool, shifts: np.ndarray) -> Pool:
    """The same with each prompt's draws in a rotated order."""
    columns = (np.arange(pool.num_draws) + shifts[:, None]) % pool.num_draws
    return Pool(
        **{
            name: np.take_along_axis(array, columns, axis=1) if array.ndim == 2 else array
            for name, array in pool.arrays().items()
        }
    )


def read_points(cache: Path) -> list[MeasuredPoint]:
    """What `draw_points` wrote."""
    with np.load(cache) as file:
        arrays = {name: file[name].astype(np.float64) for name in file.files}
    points, kl = arrays.pop("points"), arrays.pop("kl")
    shared = {name: a for name, a in arrays.items() if name.startswith("fallback_")}
    return [
        MeasuredPoint(
            tuple(point),
            Pool(**{n: a[k] for n, a in arrays.items() if n not in shared}, **shared),
            float(kl[k]),
        )
        for k, point in enumerate(points)
    ]


def draw_points(run: Path, recipe: Recipe, cache: Path, num_prompts: int, num_draws: int) -> None:
    """Draw at each point, score by the run's scorers and by the truth, and write one file."""
    pair = load_scorer_pair(find_artifact(run, "ScorerPair"), recipe.scorers)
    trained = find_artifact(run, "PolicySet")
    planned = {target.name: target for target in read_plan(find_artifact(run, "Plan")).targets}
    # As in the dial: from the loosest to the strictest.
    names = sorted(policy_directories(trained), key=lambda name: -planned[name].figures.reward)
    adapters = {name: trained_adapter(trained, name) for name in names}
    soup = SoupPolicy.load(
        policy_path(recipe), {name: path for name, path in adapters.items() if path is not None}
    )
    if len(soup.names) != len(POINTS[0]):
        raise SystemExit(f"{run}: {len(soup.names)} policies; the points are of two")
    asked = sandbox.sample_requests(np.random.default_rng(77), num_prompts, "evaluate")
    prompts: list[Prompt] = [request.text for request in asked]
    fields: dict[str, list[np.ndarray]] = {}
    kl = []
    for number, point in enumerate(POINTS):
        found, divergence = _draw(soup, pair, recipe, prompts, point, num_draws, seed=number)
        kl.append(divergence)
        for name, values in found.items():
            fields.setdefault(name, []).append(values)
        print(f"drawn at {point}: KL {divergence:.2f}", flush=True)
    fallback = _scores(pair, recipe, prompts, [recipe.decoding.fallback] * len(prompts))
    np.savez_compressed(
        cache,
        points=np.array(POINTS),
        kl=np.array(kl),
        **{name: np.stack(values).astype(np.float32) for name, values in fields.items()},
        **{
            f"fallback_{name}": values.astype(np.float32)
            for name, values in fallback.items()
            if name != "spread"  # that nobody asks of a fallback
        },
    )


def _draw(
    soup: SoupPolicy,
    pair: ScorerPair,
    recipe: Recipe,
    prompts: list[Prompt],
    point: tuple[float, ...],
    num_draws: int,
    seed: int,
) -> tuple[dict[str, np.ndarray], float]:
    rows = np.repeat(np.arange(len(prompts)), num_draws).tolist()
    started = StartedPrompts(
        soup,
        prompts,
        [point] * len(prompts),
        max_new_tokens=recipe.policy.max_new_tokens,
        law=SamplingLaw(recipe.policy.temperature, 1.0),
        batch_size=256,
    )
    state = np.random.SeedSequence([5, seed]).generate_state(len(rows), np.uint64)
    drawn = started.draw(rows, [int(each) for each in state])
    asked = [prompts[i] for i in rows]
    found = _scores(pair, recipe, asked, [each.text for each in drawn])
    found["num_tokens"] = np.array([float(len(each.token_ids)) for each in drawn])
    few = slice(0, len(rows), num_draws)  # the first draw of each prompt is enough for the KL
    base = response_log_probs(
        soup.at((0.0,) * len(point)), asked[few], [each.token_ids for each in drawn[few]]
    )
    own = np.array([each.log_prob for each in drawn[few]])
    shape = (len(prompts), num_draws)
    figures = {name: values.reshape(shape) for name, values in found.items()}
    return figures, float((own - base.double().numpy()).mean())


def _scores(
    pair: ScorerPair, recipe: Recipe, prompts: list[Prompt], texts: list[str]
) -> dict[str, np.ndarray]:
    """What a `Pool` holds of each answer; the same answer is scored once."""
    pairs = list(dict.fromkeys(zip(prompts, texts, strict=True)))
    place = {each: i for i, each in enumerate(pairs)}
    rows = np.array([place[each] for each in zip(prompts, texts, strict=True)])
    truth = sandbox.TruthScorer("reward"), sandbox.TruthScorer("cost")
    scorers = (pair.reward, pair.cost.scorer, *truth)
    parts: list[list[np.ndarray]] = [[] for _ in scorers]
    for start in range(0, len(pairs), _PART):
        asked, given = zip(*pairs[start : start + _PART], strict=True)
        for part, scorer in zip(parts, scorers, strict=True):
            part.append(scorer.score(list(asked), list(given)))
    reward, cost, true_reward, true_cost = (np.concatenate(part)[rows] for part in parts)
    spread = cost.std(axis=1, ddof=1) if cost.shape[1] > 1 else np.zeros(len(cost))
    return {
        "reward": reward.mean(axis=1),
        "cost": cost.mean(axis=1),
        "cost_bound": cost.mean(axis=1) + recipe.decoding.pessimism * spread,
        "spread": spread,
        "judged_reward": true_reward[:, 0],
        "judged_cost": true_cost[:, 0],
    }
