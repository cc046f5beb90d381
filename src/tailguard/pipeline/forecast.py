"""What a recipe's stages will take and whether its pairs can show what they must; loads the policy."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from tailguard.config import Recipe
from tailguard.errors import InputError
from tailguard.pipeline.estimate import StageEstimate, estimate_stages
from tailguard.pipeline.inventory import Inventory
from tailguard.pipeline.probe import probe_policy
from tailguard.pipeline.workload import workload
from tailguard.scorers.direction import direction_outlook


def forecast_stages(
    recipe: Recipe, inventory: Inventory, stages: Collection[str]
) -> dict[str, StageEstimate]:
    """Stage → what it will take, for those of the stages that run a model.

    Raises:
        InputError: the policy cannot be loaded, or a prompt does not fit its context.
    """
    probe = probe_policy(recipe, inventory)
    estimates = estimate_stages(workload(recipe, inventory, probe.lengths), probe)
    return {name: estimate for name, estimate in estimates.items() if name in stages}


def direction_problems(recipe: Recipe, inventory: Inventory) -> tuple[list[str], list[str]]:
    """Problems and notes about the pairs that must show the direction of a fitted scorer."""
    problems: list[str] = []
    notes: list[str] = []
    kinds: tuple[Literal["reward", "cost"], ...] = ("reward", "cost")
    for kind in kinds:
        if getattr(recipe.scorers, f"{kind}_model"):
            continue
        try:
            told = direction_outlook(inventory.num_held_prompts.get(kind, 0), kind)
        except InputError as error:
            problems.append(str(error))
        else:
            notes += [told] if told else []
    return problems, notes
