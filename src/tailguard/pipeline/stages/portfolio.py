"""``portfolio``: PolicySet → Portfolio: scored draws at points of the trained policies' weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import read_json, write_json
from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.decoding.pool import Pool
from tailguard.engines import response_log_probs, sample_responses
from tailguard.engines.soup import SoupPolicy
from tailguard.errors import InputError
from tailguard.evaluation.judge_needs import JUDGE_OF_DATA
from tailguard.evaluation.judges import Judge
from tailguard.pipeline.draws_artifact import PointDraws
from tailguard.pipeline.judges import build_judge
from tailguard.pipeline.plan_artifact import PlannedTarget, read_plan
from tailguard.pipeline.points import Point, measured_points
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.sources import policy_input, policy_path
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.bank import score_in_parts
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train import policy_directories, trained_adapter
from tailguard.pipeline.workers import map_side_by_side
from tailguard.scorers.pessimism import ScorerPair

PORTFOLIO_NAME = "portfolio.json"
_OF_DRAWS = ("spread", "doubt", "shift")  # that nobody asks of a fallback


def _config(recipe: Recipe) -> dict[str, object]:
    return {
        "dial": recipe.dial.model_dump(include={"num_draws", "shares", "scales", "judged"}),
        "policy": recipe.policy.model_dump(exclude={"model"}),
        "scorers": recipe.scorers.model_dump(include={"cost_bound", "max_tokens"}),
        "pessimism": recipe.decoding.pessimism,
        "fallback": recipe.decoding.fallback,
        "batch_size": recipe.bank.batch_size,
        "judge": JUDGE_OF_DATA[recipe.data.source],
    }


def _build(work: Work) -> dict[str, object]:
    members = members_in_order(work)
    recipe = work.recipe
    dial = recipe.dial
    points = measured_points(len(members), dial.shares, dial.scales)
    numbered = list(enumerate(points))
    # A share for each process, which loads the soup and the scorers, and makes the judge, once.
    num_parts = max(1, min(len(points), torch.get_num_threads()))
    parts = [numbered[k::num_parts] for k in range(num_parts)] if points else []
    made = [found for part in map_side_by_side(_measure_all, work, parts) for found in part]
    described = [figures for _, figures in sorted(made, key=lambda found: found[0])]
    write_json(work.directory / PORTFOLIO_NAME, {"members": members, "points": described})
    return {"members": members, "points": described}


STAGE = Stage(
    "portfolio",
    "Portfolio",
    4,
    ("prepare", "fit-scorers", "plan", "train"),
    _config,
    policy_input,
    _build,
)


def members_in_order(work: Work) -> list[str]:
    """The trained policies, from the loosest to the strictest by their plans."""
    trained = policy_directories(work.parents["train"])
    planned: Mapping[str, PlannedTarget] = {
        target.name: target for target in read_plan(work.parents["plan"]).targets
    }
    return sorted(trained, key=lambda name: -planned[name].figures.reward)


def read_portfolio(directory: Path) -> tuple[list[str], list[PointDraws]]:
    """The members' names, and the draws at each point.

    Raises:
        InputError: a file is missing or damaged.
    """
    members: list[str] = read_json(directory / PORTFOLIO_NAME)["members"]
    num_points = len(read_json(directory / PORTFOLIO_NAME)["points"])
    return members, [PointDraws.read(directory / _name(k)) for k in range(num_points)]


def load_soup(work: Work, members: list[str]) -> SoupPolicy:
    """One base with the updates of all members."""
    policy = work.recipe.policy
    adapters = {name: trained_adapter(work.parents["train"], name) for name in members}
    return SoupPolicy.load(
        policy_path(work.recipe),
        {name: folder for name, folder in adapters.items() if folder is not None},
        trust_remote_code=policy.trust_remote_code,
        device=policy.device,
        dtype=policy.dtype,
    )


def find_judge(work: Work) -> Judge | None:
    """The run's judge, where the recipe wants its word and there is one."""
    if not work.recipe.dial.judged:
        return None
    try:
        return build_judge(work)
    except InputError:  # no pairs are left for one; certificates are then the scorer's alone
        return None


def _name(number: int) -> str:
    return f"draws-{number}.safetensors"


@dataclass(frozen=True)
class _Loaded:
    """What draws and scores."""

    soup: SoupPolicy
    scorers: ScorerPair
    judge: Judge | None


def _measure_all(
    work: Work, numbered: Sequence[tuple[int, Point]]
) -> list[tuple[int, dict[str, object]]]:
    loaded = _Loaded(
        load_soup(work, members_in_order(work)),
        load_scorer_pair(work.parents["fit-scorers"], work.recipe.scorers),
        find_judge(work),
    )
    return [(number, _measure(work, loaded, number, point)) for number, point in numbered]


def _measure(work: Work, loaded: _Loaded, number: int, point: Point) -> dict[str, object]:
    """Draw, score and write the answers at one point; its figures."""
    recipe, soup = work.recipe, loaded.soup
    prompts = read_split(work.parents["prepare"], "calibrate")
    what = f"point {number + 1}"
    drawn = sample_responses(
        soup.at(point),
        prompts,
        num_samples=recipe.dial.num_draws,
        max_new_tokens=recipe.policy.max_new_tokens,
        temperature=recipe.policy.temperature,
        # The same for each point: soups that are alike then draw alike, so that their differences
        # are seen more sharply than each of them is.
        generator=torch.Generator().manual_seed(work.seed("portfolio")),
        batch_size=recipe.bank.batch_size,
        on_progress=work.steps(f"{what}: sampling"),
    )
    index: list[int] = np.asarray(drawn.prompt_index).tolist()
    asked = [prompts[i] for i in index]
    reference = response_log_probs(
        soup.at((0.0,) * len(point)),
        asked,
        drawn.token_rows,
        temperature=recipe.policy.temperature,
        batch_size=64,
    )
    log_ratio = (drawn.log_probs - reference).double().numpy()
    shape = (len(prompts), recipe.dial.num_draws)
    scores = _scores(work, loaded, asked, drawn.texts, what)
    rows = {name: values.reshape(shape) for name, values in scores.items()}
    fallback = _scores(work, loaded, prompts, [recipe.decoding.fallback] * len(prompts), what)
    draws = PointDraws(
        point,
        Pool(
            num_tokens=np.asarray(drawn.lengths, dtype=np.float64).reshape(shape),
            **rows,
            **{f"fallback_{name}": fallback[name] for name in fallback if name not in _OF_DRAWS},
        ),
        log_ratio.reshape(shape),
    )
    draws.write(work.directory / _name(number))
    return {
        "point": list(point),
        "reward": float(rows["reward"].mean()),
        "kl": draws.kl,
        "cost": float(rows["cost_bound"].mean()),
        "tokens": float(np.asarray(drawn.lengths).mean()),
    }


def _scores(
    work: Work, loaded: _Loaded, prompts: list[Prompt], texts: list[str], what: str
) -> dict[str, np.ndarray]:
    """What a `Pool` holds of each answer [answers]: scores, what is known of them, and the judge's."""
    found = score_in_parts(loaded.scorers, prompts, texts, work.steps(f"{what}: scoring"))
    spread = np.nan_to_num(found["cost_std"])  # a single member's is unknown, and κ is then 0
    scores = {
        "reward": found["reward"],
        "cost": found["cost_mean"],
        "cost_bound": found["cost_mean"] + work.recipe.decoding.pessimism * spread,
        "spread": found["cost_std"],
        "doubt": found["cost_doubt"],
        "shift": found["shift"],
    }
    if loaded.judge is not None:
        scores["judged_reward"], scores["judged_cost"] = loaded.judge.score(prompts, texts)
    return scores
