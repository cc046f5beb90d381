"""``fit-values``: PolicySet → GuidedPolicy: process heads and plans for the decoding policies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import Json, read_json, write_json
from tailguard.config import Guided, Recipe
from tailguard.engines import response_hidden_states
from tailguard.errors import InfeasibleError
from tailguard.models.policy import Policy
from tailguard.pipeline.plan_artifact import PlanFigures, PlannedTarget
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.sources import adapter_hash, policy_input
from tailguard.pipeline.stage import Stage, Work, settings_of
from tailguard.pipeline.stages.bank import (
    BANK_NAME,
    BankTable,
    read_bank,
    read_sample_bank,
    sample_risk,
    write_bank,
)
from tailguard.pipeline.stages.plan import limit_on
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.sample import draw_answers
from tailguard.pipeline.stages.train import load_trained, trained_adapter
from tailguard.planning import SampleBank, solve
from tailguard.risk import RiskLimit
from tailguard.risk.spelling import describe_limit
from tailguard.values.fit import ValueFitting, fit_process_heads
from tailguard.values.targets import PrefixOutcomes

HEADS_NAME = "heads.safetensors"
GUIDED_NAME = "guided.json"
# Dense towards 1: budgets and acceptance levels are about the upper tail of the cost.
_QUANTILE_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_GRID_QUANTILES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class GuidedPlan:
    """How a policy is to be guided under one limit, planned on its own bank.

    Attributes:
        policy: the policy that decodes.
        limit: that its answers must meet.
        figures: of the solution on the policy's own bank: λ′, ν′ and what they are worth.
        policy_risk: the policy's risk on that bank without guidance.
    """

    policy: str
    limit: RiskLimit
    figures: PlanFigures
    policy_risk: float

    def to_json(self) -> dict[str, Json]:
        """As JSON holds it; `from_json` reads it back."""
        planned = PlannedTarget(self.policy, self.limit, self.figures)
        return planned.to_json() | {"policy_risk": self.policy_risk}

    @classmethod
    def from_json(cls, content: dict[str, Json]) -> GuidedPlan:
        """What `to_json` gave."""
        planned = PlannedTarget.from_json(content)
        assert planned.limit is not None  # guidance without a limit is plain sampling
        return cls(planned.name, planned.limit, planned.figures, float(content["policy_risk"]))


def _config(recipe: Recipe) -> dict[str, object]:
    return {
        "values": recipe.values.model_dump(),
        "policy": recipe.policy.model_dump(exclude={"model"}),
        "scorers": recipe.scorers.model_dump(include={"pessimism", "cost_bound", "max_tokens"}),
        # Heads are fitted where decoding reads them: at the ends of blocks.
        "block_tokens": recipe.decoding.block_tokens,
        "kl_coef": recipe.plan.kl_coef,
    }


def _build(work: Work) -> dict[str, object]:
    guided = work.recipe.values.guided
    metrics: dict[str, object] = {}
    plans: list[GuidedPlan] = []
    # One policy may serve several limits: its heads are fitted once, its plans are one per limit.
    for name in dict.fromkeys(entry.policy for entry in guided):
        directory = work.directory / name
        directory.mkdir()
        metrics[name] = _fit(work, name, directory)
        bank = read_sample_bank(directory / BANK_NAME)
        plans += [_plan(bank, entry, work.recipe) for entry in guided if entry.policy == name]
    described = [plan.to_json() for plan in plans]
    write_json(work.directory / GUIDED_NAME, described)
    return metrics | {"guided": described}


STAGE = Stage(
    "fit-values",
    "GuidedPolicy",
    3,
    ("prepare", "fit-scorers", "train"),
    _config,
    policy_input,
    _build,
)


def read_guided(directory: Path) -> list[GuidedPlan]:
    """The plans of a GuidedPolicy artifact."""
    return [GuidedPlan.from_json(content) for content in read_json(directory / GUIDED_NAME)]


def _fit(work: Work, name: str, directory: Path) -> dict[str, object]:
    recipe = work.recipe
    policy = load_trained(recipe, work.parents["train"], name)
    prompts = read_split(work.parents["prepare"], "train")[: recipe.values.num_prompts]
    purpose = f"{name}: own bank"
    figures = write_bank(
        directory / BANK_NAME,
        draw_answers(
            policy, prompts, num_samples=recipe.values.num_samples, work=work, purpose=purpose
        ),
        load_scorer_pair(work.parents["fit-scorers"], recipe.scorers),
        work.steps(f"{purpose}: scoring"),
    )
    table = read_bank(directory / BANK_NAME)
    hidden, rows = _prefix_states(
        policy, table, recipe.decoding.block_tokens, recipe.values.micro_batch
    )
    heads, fitted = fit_process_heads(
        PrefixOutcomes(
            hidden=hidden,
            reward=torch.as_tensor(table.reward.astype(np.float32)[rows]),
            cost=torch.as_tensor(table.cost.astype(np.float32)[rows]),
            prompt_index=torch.as_tensor(table.prompt_index[rows]),
        ),
        _threshold_grid(table.cost),
        torch.tensor(_QUANTILE_LEVELS),
        settings=settings_of(ValueFitting, recipe.values),
        generator=torch.Generator().manual_seed(work.seed(f"{name}: heads")),
        on_progress=work.steps(f"{name}: process heads"),
    )
    # Heads predict what this policy does next; with any other policy they are refused.
    heads.base_hash = policy_input(recipe)["policy"]
    heads.policy_hash = adapter_hash(trained_adapter(work.parents["train"], name))
    heads.save(directory / HEADS_NAME)
    return {"bank": figures, "heads": fitted}


def _prefix_states(
    policy: Policy, table: BankTable, block_tokens: int, micro_batch: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Hidden states at the end of each block and of the answer, and the answer that each is from."""
    positions = [
        sorted({*range(block_tokens, len(tokens), block_tokens), len(tokens)})
        for tokens in table.token_ids
    ]
    states = response_hidden_states(
        policy, table.prompts, table.token_ids, positions, batch_size=micro_batch
    )
    rows = np.repeat(np.arange(len(positions)), [len(found) for found in positions])
    return torch.cat(states), rows


def _threshold_grid(costs: np.ndarray) -> torch.Tensor:
    """A grid of ν over the range of costs, dense in the upper tail, where budgets are."""
    # The heads need an increasing grid: equal costs make equal quantiles, and steps far below the
    # range of costs are rounding. Costs that are all equal leave one point: a second is added.
    grid = np.unique(np.quantile(costs, _GRID_QUANTILES).astype(np.float32))
    span = max(float(costs.max() - costs.min()), 1e-3)
    keep = np.concatenate([[True], np.diff(grid) > 1e-3 * span])
    if keep.sum() < 2:
        return torch.tensor([float(costs.min()), float(costs.min()) + span])
    return torch.as_tensor(grid[keep])


def _plan(bank: SampleBank, guided: Guided, recipe: Recipe) -> GuidedPlan:
    limit = limit_on(bank, guided, recipe)
    solution = solve(bank, limit, kl_coef=recipe.plan.kl_coef)
    if not solution.feasible:
        least = solution.smallest_reachable_risks[0]
        raise InfeasibleError(
            f"values.guided: policy {guided.policy} asks for {describe_limit(limit)}, but the smallest"
            f" risk that its own bank can reach is {least:.4g}; raise the budget",
            least,
        )
    here = sample_risk(limit.measure, bank.cost)
    return GuidedPlan(guided.policy, limit, PlanFigures.of(solution), here)
