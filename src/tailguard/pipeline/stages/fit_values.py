"""``fit-values``: PolicySet → GuidedPolicy: process heads and plans of the policies that decode."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailguard.artifacts import read_json, write_json
from tailguard.config import Guided, Recipe
from tailguard.engines import response_hidden_states
from tailguard.errors import InfeasibleError
from tailguard.models.policy import Policy
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.sources import adapter_hash, policy_input
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.bank import BANK_NAME, read_bank, sample_risk, write_bank
from tailguard.pipeline.stages.plan import smallest_reachable_risk
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train import load_trained, trained_adapter
from tailguard.planning import SampleBank, solve
from tailguard.risk import CVaR
from tailguard.risk.limit import RiskLimit
from tailguard.values.fit import ValueFitting, fit_process_heads
from tailguard.values.targets import PrefixOutcomes

HEADS_NAME = "heads.safetensors"
GUIDED_NAME = "guided.json"
_QUANTILE_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_GRID_QUANTILES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class GuidedPlan:
    """How a policy is to be guided for one risk profile, planned on its own bank.

    Attributes:
        policy: the policy that decodes.
        tail_mass: α.
        budget: d.
        multiplier: λ′.
        threshold: ν′.
        policy_risk: the policy's own CVaR on its bank, unguided.
        planned_risk: the plan's.
    """

    policy: str
    tail_mass: float
    budget: float
    multiplier: float
    threshold: float
    policy_risk: float
    planned_risk: float


def _config(recipe: Recipe) -> dict[str, Any]:
    return {
        "values": recipe.values.model_dump(),
        "policy": recipe.policy.model_dump(exclude={"model"}),
        "scorers": recipe.scorers.model_dump(include={"pessimism", "cost_bound", "max_tokens"}),
        "block_tokens": recipe.decoding.block_tokens,
        "kl_coef": recipe.plan.kl_coef,
    }


def _build(work: Work) -> dict[str, Any]:
    guided = work.recipe.values.guided
    metrics: dict[str, Any] = {}
    plans: list[GuidedPlan] = []
    for name in dict.fromkeys(entry.policy for entry in guided):
        directory = work.directory / name
        directory.mkdir()
        metrics[name] = _fit(work, name, directory)
        bank, _ = read_bank(directory / BANK_NAME)
        plans += [_plan(bank, g, work.recipe.plan.kl_coef) for g in guided if g.policy == name]
    write_json(work.directory / GUIDED_NAME, [asdict(plan) for plan in plans])
    return metrics | {"guided": [asdict(plan) for plan in plans]}


STAGE = Stage(
    "fit-values",
    "GuidedPolicy",
    2,
    ("prepare", "fit-scorers", "train"),
    _config,
    policy_input,
    _build,
)


def read_guided(directory: Path) -> list[GuidedPlan]:
    """The plans of a GuidedPolicy artifact."""
    return [GuidedPlan(**fields) for fields in read_json(directory / GUIDED_NAME)]


def _fit(work: Work, name: str, directory: Path) -> dict[str, Any]:
    recipe = work.recipe
    policy = load_trained(recipe, work.parents["train"], name)
    prompts = read_split(work.parents["prepare"], "train")[: recipe.values.num_prompts]
    figures = write_bank(
        directory / BANK_NAME,
        policy,
        prompts,
        load_scorer_pair(work.parents["fit-scorers"], recipe.scorers),
        num_samples=recipe.values.num_samples,
        work=work,
        purpose=f"{name}: own bank",
    )
    _, columns = read_bank(directory / BANK_NAME)
    hidden, rows = _prefix_states(policy, columns, recipe.decoding.block_tokens)
    reward, cost = (np.asarray(columns[key], dtype=np.float32)[rows] for key in ("reward", "cost"))
    heads, fitted = fit_process_heads(
        PrefixOutcomes(
            hidden=hidden,
            reward=torch.as_tensor(reward),
            cost=torch.as_tensor(cost),
            prompt_index=torch.as_tensor(np.asarray(columns["prompt_index"])[rows]),
        ),
        _threshold_grid(np.asarray(columns["cost"])),
        torch.tensor(_QUANTILE_LEVELS),
        settings=ValueFitting(
            num_members=recipe.values.num_members,
            num_features=recipe.values.num_features,
            num_epochs=recipe.values.num_epochs,
        ),
        generator=torch.Generator().manual_seed(work.seed(f"{name}: heads")),
        on_progress=work.steps(f"{name}: process heads"),
    )
    heads.base_hash = policy_input(recipe)["policy"]
    heads.policy_hash = adapter_hash(trained_adapter(work.parents["train"], name))
    heads.save(directory / HEADS_NAME)
    return {"bank": figures, "heads": fitted}


def _prefix_states(
    policy: Policy, columns: dict[str, list[Any]], block_tokens: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Hidden states at every block's end and at the answer's, and which answer each is of."""
    token_rows: list[list[int]] = columns["token_ids"]
    positions = [
        sorted({*range(block_tokens, len(tokens), block_tokens), len(tokens)})
        for tokens in token_rows
    ]
    prompts = [json.loads(prompt) for prompt in columns["prompt"]]
    states = response_hidden_states(policy, prompts, token_rows, positions, batch_size=64)
    rows = np.repeat(np.arange(len(token_rows)), [len(found) for found in positions])
    return torch.cat(states), rows


def _threshold_grid(costs: np.ndarray) -> torch.Tensor:
    """A grid of ν from the smallest cost to the largest, dense where budgets are."""
    grid = np.unique(np.quantile(costs, _GRID_QUANTILES).astype(np.float32))
    span = max(float(costs.max() - costs.min()), 1e-3)
    keep = np.concatenate([[True], np.diff(grid) > 1e-3 * span])
    if keep.sum() < 2:
        return torch.tensor([float(costs.min()), float(costs.min()) + span])
    return torch.as_tensor(grid[keep])


def _plan(bank: SampleBank, guided: Guided, kl_coef: float) -> GuidedPlan:
    measure = CVaR(guided.tail_mass)
    here = sample_risk(measure, bank.cost)
    least = smallest_reachable_risk(bank, measure, kl_coef)
    budget = guided.budget
    if guided.reduction is not None:
        budget = here + guided.reduction * (least - here)
    assert budget is not None  # the recipe gives one of the two
    solution = solve(bank, RiskLimit(measure, budget), kl_coef=kl_coef)
    if not solution.feasible:
        raise InfeasibleError(
            f"values.guided: {guided.policy} with CVaR at {guided.tail_mass} ≤ {budget:.4g}: the"
            f" smallest risk that its own bank can reach is {least:.4g}; raise the budget",
            least,
        )
    return GuidedPlan(
        policy=guided.policy,
        tail_mass=guided.tail_mass,
        budget=float(budget),
        multiplier=solution.multipliers[0],
        threshold=float(np.mean(solution.thresholds[0])),
        policy_risk=float(here),
        planned_risk=solution.risks[0],
    )
