"""``portfolio``: PolicySet → Portfolio: scored draws at points of the trained policies' weight space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import read_json, write_json
from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.decoding.joint import KnownRaters
from tailguard.decoding.outlook import stack_foreseen
from tailguard.decoding.pool import Pool
from tailguard.engines import response_log_probs
from tailguard.engines.soup import SoupPolicy
from tailguard.errors import InputError, ScoreError
from tailguard.evaluation.judge_needs import JUDGE_OF_DATA
from tailguard.evaluation.judges import Judge
from tailguard.pipeline.draws_artifact import PointDraws
from tailguard.pipeline.judges import build_judge
from tailguard.pipeline.points import Point, measured_points
from tailguard.pipeline.process_heads import (
    HEADS_NAME,
    RollOuts,
    hash_of,
    read_heads,
    roll_out,
    write_heads,
)
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.sources import policy_input, policy_path
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.bank import score_in_parts
from tailguard.pipeline.stages.portfolio_heads import fit_process_heads
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train import trained_adapter, trained_targets
from tailguard.pipeline.workers import map_side_by_side
from tailguard.scorers.pessimism import ScorerPair, pessimistic_to_raters
from tailguard.values import ProcessHeads

PORTFOLIO_NAME = "portfolio.json"
_OF_DRAWS = ("spread", "doubt", "shift")  # that nobody asks of a fallback


def _config(recipe: Recipe) -> dict[str, object]:
    return {
        "dial": recipe.dial.model_dump(
            include={"num_draws", "shares", "scales", "judged", "heads"}
        ),
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
    fitted = _fit_heads(work, members, points) if dial.heads else None
    # A share for each process, which loads the soup and the scorers, and makes the judge, once.
    num_parts = max(1, min(len(points), torch.get_num_threads()))
    parts = [numbered[k::num_parts] for k in range(num_parts)] if points else []
    made = [found for part in map_side_by_side(_measure_all, work, parts) for found in part]
    described = [figures for _, figures in sorted(made, key=lambda found: found[0])]
    content: dict[str, object] = {
        "members": members,
        "points": described,
        "heads": fitted,
        "raters": _known_raters(work),
    }
    write_json(work.directory / PORTFOLIO_NAME, content)
    return content


STAGE = Stage(
    "portfolio",
    "Portfolio",
    7,
    ("prepare", "fit-scorers", "train"),
    _config,
    policy_input,
    _build,
)


def members_in_order(work: Work) -> list[str]:
    """The trained policies, from the loosest to the strictest by their plans."""
    return list(trained_targets(work.parents["train"]))


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
    heads: ProcessHeads | None


def _measure_all(
    work: Work, numbered: Sequence[tuple[int, Point]]
) -> list[tuple[int, dict[str, object]]]:
    loaded = _Loaded(
        load_soup(work, members_in_order(work)),
        load_scorer_pair(work.parents["fit-scorers"], work.recipe.scorers),
        find_judge(work),
        read_heads(work.directory / HEADS_NAME, made_on(work, members_in_order(work))),
    )
    return [(number, _measure(work, loaded, number, point)) for number, point in numbered]


def _measure(work: Work, loaded: _Loaded, number: int, point: Point) -> dict[str, object]:
    """Draw, score and write the answers at one point; its figures."""
    recipe, soup = work.recipe, loaded.soup
    prompts = read_split(work.parents["prepare"], "calibrate")
    what = f"point {number + 1}"
    heads = loaded.heads
    # The seeds are the same for each point: soups that are alike then draw alike, so that their
    # differences are seen more sharply than each of them is.
    found = roll_out(
        soup,
        prompts,
        point,
        num_draws=recipe.dial.num_draws,
        max_new_tokens=recipe.policy.max_new_tokens,
        temperature=recipe.policy.temperature,
        seed=work.seed("portfolio"),
        batch_size=recipe.bank.batch_size,
        checkpoints=() if heads is None else heads.checkpoints.tolist(),
        on_progress=work.steps(f"{what}: sampling"),
    )
    asked = [prompts[i] for i in found.prompt_index]
    reference = response_log_probs(
        soup.at((0.0,) * len(point)),
        asked,
        [each.token_ids for each in found.drawn],
        temperature=recipe.policy.temperature,
        batch_size=64,
    )
    log_probs = np.array([each.log_prob for each in found.drawn])
    if not np.isfinite(log_probs).all():
        raise ScoreError(f"{what}: the policy's predictions are NaN; look at its weights")
    log_ratio = log_probs - reference.double().numpy()
    shape = (len(prompts), recipe.dial.num_draws)
    scores = _scores(work, loaded, asked, [each.text for each in found.drawn], what)
    lengths = np.array([float(len(each.token_ids)) for each in found.drawn])
    rows = {name: v.reshape(*shape, *v.shape[1:]) for name, v in scores.items()}
    fallback = _scores(work, loaded, prompts, [recipe.decoding.fallback] * len(prompts), what)
    draws = PointDraws(
        point,
        Pool(
            num_tokens=lengths.reshape(shape),
            foreseen=_foreseen(heads, found, point, shape),
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
        "tokens": float(lengths.mean()),
    }


def _known_raters(work: Work) -> dict[str, list[str]]:
    """Whom the draws' costs tell apart, in their order: by the scorer, and by the judge."""
    pair = load_scorer_pair(work.parents["fit-scorers"], work.recipe.scorers)
    judge = find_judge(work)
    return {"scored": list(pair.raters), "judged": [] if judge is None else list(judge.raters)}


def read_known_raters(directory: Path) -> KnownRaters:
    """Whom the draws of a portfolio tell apart."""
    raters = read_json(directory / PORTFOLIO_NAME)["raters"]
    return KnownRaters(tuple(raters["judged"]), tuple(raters["scored"]))


def _fit_heads(work: Work, members: list[str], points: list[Point]) -> dict[str, object]:
    """Process heads beside the draws, where there are enough answers for them; their figures."""
    scorers = load_scorer_pair(work.parents["fit-scorers"], work.recipe.scorers)
    try:
        heads, figures = fit_process_heads(work, load_soup(work, members), scorers, points)
    except InputError as error:
        return {"why_none": str(error)}
    write_heads(heads, work.directory / HEADS_NAME, made_on(work, members))
    return figures


def _foreseen(
    heads: ProcessHeads | None, found: RollOuts, point: Point, shape: tuple[int, int]
) -> np.ndarray | None:
    """What heads foresaw of each draw [prompts, draws, checkpoints, outputs]."""
    if heads is None or found.states is None:
        return None
    points: np.ndarray = np.tile(np.array(point), (len(found.drawn), 1))
    stages = [
        stack_foreseen(heads.foresee(k, found.states[:, k], points))
        for k in range(len(heads.checkpoints))
    ]
    stacked = np.stack(stages, axis=1).astype(np.float32)
    return stacked.reshape(*shape, *stacked.shape[1:])


def made_on(work: Work, members: list[str]) -> dict[str, str]:
    """What heads of these members hold for."""
    adapters = {name: trained_adapter(work.parents["train"], name) for name in members}
    folders = {name: folder for name, folder in adapters.items() if folder is not None}
    return hash_of(policy_input(work.recipe)["policy"], folders)


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
    if "by_rater" in found:
        pessimism = work.recipe.decoding.pessimism if found["by_rater"].shape[1] > 1 else 0.0
        scores["rater_bound"] = pessimistic_to_raters(found["by_rater"], pessimism)
    if loaded.judge is not None:
        scores["judged_reward"], scores["judged_cost"] = loaded.judge.score(prompts, texts)
        if loaded.judge.raters:
            scores["judged_by_rater"] = loaded.judge.score_raters(prompts, texts)
    return scores
