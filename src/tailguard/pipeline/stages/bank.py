"""``bank``: scored answers of the reference policy → SampleBank."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailguard.config import Recipe
from tailguard.data import Prompt, prompt_id
from tailguard.data.table import read_table, write_table
from tailguard.engines import sample_responses
from tailguard.models.policy import Policy, load_policy
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.sources import policy_input, policy_path
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.prepare import read_split
from tailguard.planning import SampleBank
from tailguard.risk import CVaR, RiskMeasure
from tailguard.scorers.pessimism import ScorerPair

BANK_NAME = "bank.parquet"


def _config(recipe: Recipe) -> dict[str, Any]:
    return {
        "bank": recipe.bank.model_dump(),
        "policy": recipe.policy.model_dump(exclude={"model"}),
        "scorers": recipe.scorers.model_dump(include={"pessimism", "cost_bound", "max_tokens"}),
    }


def _build(work: Work) -> dict[str, Any]:
    recipe = work.recipe
    policy = load_policy(policy_path(recipe), trust_remote_code=recipe.policy.trust_remote_code)
    return write_bank(
        work.directory / BANK_NAME,
        policy,
        read_split(work.parents["prepare"], "train"),
        load_scorer_pair(work.parents["fit-scorers"], recipe.scorers),
        num_samples=recipe.bank.num_samples,
        work=work,
        purpose="bank",
    )


STAGE = Stage("bank", "SampleBank", 2, ("prepare", "fit-scorers"), _config, policy_input, _build)


def write_bank(
    path: Path,
    policy: Policy,
    prompts: Sequence[Prompt],
    scorers: ScorerPair,
    *,
    num_samples: int,
    work: Work,
    purpose: str,
) -> dict[str, Any]:
    """Sample ``num_samples`` answers a prompt, score them, and write them, prompt by prompt.

    Returns:
        Figures of the bank.
    """
    import torch

    settings = work.recipe
    drawn = sample_responses(
        policy,
        prompts,
        num_samples=num_samples,
        max_new_tokens=settings.policy.max_new_tokens,
        temperature=settings.policy.temperature,
        generator=torch.Generator().manual_seed(work.seed(purpose)),
        batch_size=settings.bank.batch_size,
        on_progress=work.steps(f"{purpose}: sampling"),
    )
    index: list[int] = np.asarray(drawn.prompt_index).tolist()
    asked = [prompts[i] for i in index]
    scores = score_in_parts(scorers, asked, drawn.texts, work.steps(f"{purpose}: scoring"))
    lengths = np.asarray(drawn.lengths)
    tokens = np.asarray(drawn.token_ids)
    write_table(
        path,
        {
            "prompt_index": index,
            "prompt_id": [prompt_id(prompt) for prompt in asked],
            "prompt": [json.dumps(prompt) for prompt in asked],
            "response": list(drawn.texts),
            "token_ids": [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)],
            "finished": np.asarray(drawn.finished),
            "log_prob": np.asarray(drawn.log_probs, dtype=np.float64),
            **scores,
        },
    )
    return {
        "num_prompts": len(prompts),
        "num_samples": num_samples,
        "num_tokens": int(lengths.sum()),
        "reward": float(scores["reward"].mean()),
        "cost": float(scores["cost"].mean()),
        "cvar_0.1": sample_risk(CVaR(0.1), scores["cost"]),
    }


def sample_risk(measure: RiskMeasure, costs: np.ndarray) -> float:
    """Risk of equally weighted costs of any shape, without a warning where the tail is thin.

    For figures beside which the number of samples stands.
    """
    flat = costs.ravel()
    return float(measure.value_rows(flat, np.full(flat.size, 1.0 / flat.size)))


def score_in_parts(
    scorers: ScorerPair,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    on_progress: Callable[[int, int], None],
    size: int = 2048,
) -> dict[str, np.ndarray]:
    """Scores of many answers by field, with progress."""
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(responses), size):
        rows = slice(start, start + size)
        parts.append(vars(scorers.score(prompts[rows], responses[rows])))
        on_progress(min(start + size, len(responses)), len(responses))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read_bank(path: Path) -> tuple[SampleBank, dict[str, list[Any]]]:
    """The bank as arrays [prompts, samples], and its columns, prompt by prompt.

    Raises:
        InputError: the table is missing or not parquet.
    """
    columns = read_table(path)
    num_prompts = max(columns["prompt_index"]) + 1
    reward, cost = (
        np.asarray(columns[name], dtype=np.float64).reshape(num_prompts, -1)
        for name in ("reward", "cost")
    )
    ids = np.asarray(columns["prompt_id"]).reshape(num_prompts, -1)[:, 0].tolist()
    return SampleBank(reward, cost, prompt_ids=ids), columns
