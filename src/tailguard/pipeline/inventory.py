"""What a recipe's data hold, counted before anything is loaded or run. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tailguard.config import FileData, Recipe, SandboxData
from tailguard.data import Preference, Prompt, describe_near_duplicates, prompt_id
from tailguard.pipeline.stages.prepare import RawData, near_duplicates, pair_roles, read_data

FEWEST_LABELS = 20
"""Of each sign among the held-out pairs: with fewer, the zero of the cost is left where it is."""
_NUM_EXAMPLES = 64  # enough for a mean length within a tenth or so


@dataclass(frozen=True)
class Inventory:
    """Counts, and some examples to measure lengths on.

    Attributes:
        num_prompts: split → number of prompts.
        num_pairs: kind of score → role → number of pairs.
        num_held_prompts: kind of score → distinct prompts of the pairs that check its scorer.
        num_held_labels: ``safe`` and ``unsafe`` → answers so labelled in those pairs.
        prompts: some of the prompts to train on.
        pairs: kind of score → some of its pairs.
        notes: what is odd in the files, one line each.
    """

    num_prompts: Mapping[str, int]
    num_pairs: Mapping[str, Mapping[str, int]]
    num_held_prompts: Mapping[str, int]
    num_held_labels: Mapping[str, int]
    prompts: list[Prompt]
    pairs: Mapping[str, list[Preference]]
    notes: tuple[str, ...] = ()


def take_inventory(recipe: Recipe, *, compare_splits: bool = False) -> Inventory:
    """Read the recipe's files, and count what is in them.

    Args:
        recipe: valid by its schema.
        compare_splits: also look for near-duplicates across splits, which takes seconds.

    Raises:
        InputError: a file is missing or wrong, with its line; too few prompts.
    """
    data = recipe.data
    if isinstance(data, SandboxData):
        return _of_sandbox(recipe, data)
    raw = read_data(recipe)
    overlaps = describe_near_duplicates(near_duplicates(raw)) if compare_splits else ""
    return _counted(data, raw, (*raw.notes, *filter(None, [overlaps])))


def _counted(data: FileData | SandboxData, raw: RawData, notes: tuple[str, ...]) -> Inventory:
    pairs, splits = raw.pairs, raw.splits
    roles = {kind: pair_roles(rows, data) for kind, rows in pairs.items()}
    held = {
        kind: [pair for pair, role in zip(rows, roles[kind], strict=True) if role == "validate"]
        for kind, rows in pairs.items()
    }
    labels = Counter(
        "safe" if safe else "unsafe"
        for pair in held.get("cost", [])
        for safe in (pair.chosen_safe, pair.rejected_safe)
        if safe is not None
    )
    return Inventory(
        num_prompts={name: len(getattr(splits, name)) for name in splits.names()},
        num_pairs={kind: Counter(found) for kind, found in roles.items()},
        num_held_prompts={
            kind: len({prompt_id(pair.prompt) for pair in rows}) for kind, rows in held.items()
        },
        num_held_labels=labels,
        prompts=splits.train[:_NUM_EXAMPLES],
        pairs={kind: rows[:_NUM_EXAMPLES] for kind, rows in pairs.items()},
        notes=notes,
    )


def _of_sandbox(recipe: Recipe, data: SandboxData) -> Inventory:
    """Without drawing everything: its numbers are in the recipe, and a few examples will do."""
    sizes = data.model_dump(exclude={"source"})
    few = {key: min(size, _NUM_EXAMPLES) for key, size in sizes.items()}
    drawn = _counted(data, read_data(recipe.model_copy(update={"data": SandboxData(**few)})), ())
    pairs = {"reward": data.num_reward_pairs, "cost": data.num_cost_pairs}
    benign = drawn.num_prompts["benign"] / few["num_evaluation"]
    return Inventory(
        num_prompts={
            "train": data.num_prompts,
            "calibrate": data.num_calibration,
            "certify": data.num_certification,
            "evaluate": data.num_evaluation,
            "benign": round(benign * data.num_evaluation),
        },
        num_pairs={kind: _scaled(drawn.num_pairs[kind], num) for kind, num in pairs.items()},
        num_held_prompts={
            kind: round(drawn.num_held_prompts[kind] * num / few[f"num_{kind}_pairs"])
            for kind, num in pairs.items()
        },
        num_held_labels={
            name: round(number * data.num_cost_pairs / few["num_cost_pairs"])
            for name, number in drawn.num_held_labels.items()
        },
        prompts=drawn.prompts,
        pairs=drawn.pairs,
    )


def _scaled(counts: Mapping[str, int], total: int) -> dict[str, int]:
    drawn = sum(counts.values())
    return {name: round(count * total / drawn) for name, count in counts.items()}
