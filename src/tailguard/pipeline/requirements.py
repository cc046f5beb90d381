"""What a recipe must hold for the stages that will run, checked before the first of them runs.

Nothing here, nor what it imports, loads torch: a wrong recipe is refused within two seconds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from tailguard.artifacts import Json, read_json
from tailguard.config import FileData, Recipe
from tailguard.errors import InputError
from tailguard.evaluation.judge_needs import JUDGE_NEEDS, JUDGE_OF_DATA
from tailguard.models.checkpoint import require_checkpoint
from tailguard.models.device import require_device
from tailguard.pipeline.sources import model_path
from tailguard.pipeline.user_function import missing_function

NO_EVALUATION_PROMPTS = "data.evaluation_prompts: none; name a file of prompts to evaluate on"


def check_requirements(recipe: Recipe, stages: Collection[str]) -> None:
    """Refuse at once what a later stage would refuse, perhaps hours later.

    Args:
        recipe: valid by its schema.
        stages: names of the stages that will run.

    Raises:
        InputError: something that one of them needs is missing; it names the key.
    """
    for problem in unmet_requirements(recipe, stages):
        raise InputError(problem)


def unmet_requirements(recipe: Recipe, stages: Collection[str]) -> list[str]:
    """Everything that `check_requirements` would refuse, one line each."""
    return [problem for stage, problem in _problems(recipe) if stage in stages]


def _problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Pairs of the stage that would fail and the message that says why."""
    yield from _devices(recipe)
    yield from _models(recipe)
    yield from _own_code(recipe)
    if not recipe.plan.targets and not recipe.plan.num_members:
        yield "train", "plan.targets: none; name at least one policy to train, or num_members"
    if recipe.policy.temperature != 1.0:
        yield (
            "train",
            f"policy.temperature: {recipe.policy.temperature:g}; policies are trained at 1 only:"
            " set it to 1, or stop at plan",
        )
    # Under such a limit each prompt has its own threshold; on-policy steps hold one for all prompts.
    for target in recipe.plan.targets:
        if target.scope == "per_prompt" and recipe.train.num_steps:
            yield (
                "train",
                f"plan.targets: '{target.name}' has scope per_prompt, which on-policy steps do not"
                " support; set train.num_steps to 0 for distillation alone",
            )
    num_prompts = recipe.data.num_prompts
    held_out = recipe.train.num_held_out(num_prompts)
    if recipe.train.num_steps and recipe.train.prompts_per_step > num_prompts - held_out:
        kept = f", of which rounds hold out {held_out}" if held_out else ""
        yield (
            "train",
            f"train.prompts_per_step: {recipe.train.prompts_per_step} of {num_prompts}"
            f" prompts (data.num_prompts){kept}; take fewer per step",
        )
    if isinstance(recipe.data, FileData):
        yield from _missing_files(recipe.data)


def _devices(recipe: Recipe) -> Iterator[tuple[str, str]]:
    # `prepare` is the stage that every other one needs.
    places = {"policy.device": recipe.policy.device, "scorers.device": recipe.scorers.device}
    for key, name in places.items():
        try:
            require_device(name, key)
        except InputError as error:
            yield "prepare", str(error)


def _models(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Folders that hold no model, found before one is loaded, which may take minutes."""
    scorers = recipe.scorers
    keys = {"scorers.reward_model": scorers.reward_model, "scorers.cost_model": scorers.cost_model}
    given = {key: source for key, source in keys.items() if source is not None}
    named = [
        ("fit-scorers", "policy", recipe.policy.model),
        ("fit-scorers", "backbone", scorers.backbone),
        *(("fit-scorers", key, source.local_model) for key, source in given.items()),
    ]
    for stage, kind, name in named:
        try:
            if name:
                require_checkpoint(model_path(name), kind)
        except InputError as error:
            yield stage, str(error)
    for key, source in given.items():
        if source.python and (wrong := missing_function(source.python, Path(source.folder))):
            yield "fit-scorers", f"{key}: {wrong}"
        if source.label is None and len(names := _outputs(source.local_model)) > 1:
            yield (
                "fit-scorers",
                f"{key}: label: none given for {len(names)} outputs; name the one to score:"
                f" {', '.join(names[:40])}",
            )
        if source.key_env and not os.environ.get(source.key_env):
            yield (
                "fit-scorers",
                f"{key}: key_env: the environment has no {source.key_env}; set it to the API key of"
                f" {source.endpoint}",
            )


def _outputs(model: str) -> list[str]:
    """Names of a local classifier's outputs; none where its config does not say."""
    if not model:
        return []
    try:
        names: Json = read_json(Path(model_path(model)) / "config.json")["id2label"]
        return [str(name) for name in names.values()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, InputError):
        return []  # a folder's faults are told already, and a hub model's are when it is read


def _own_code(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if not recipe.policy.trust_remote_code:
        return
    # Fitting and training load the model through classes that do not run a model's own code.
    scorers, policy = recipe.scorers, recipe.policy.model
    given = bool(scorers.reward_model and scorers.cost_model)
    if not given and (scorers.backbone or policy) == policy:
        yield (
            "fit-scorers",
            "policy.trust_remote_code: scorers are not fitted on a model with code of its own;"
            " give another scorers.backbone, or both reward_model and cost_model",
        )
    yield (
        "train",
        "policy.trust_remote_code: a model with code of its own can be planned for, not trained;"
        " stop at plan",
    )


def _missing_files(data: FileData) -> Iterator[tuple[str, str]]:
    if not data.evaluation_prompts:
        yield "evaluate", NO_EVALUATION_PROMPTS
    judge = JUDGE_NEEDS[JUDGE_OF_DATA[data.source]]
    for name in ("reward_pairs", "cost_pairs"):
        if judge.pairs and not getattr(data, name):
            yield (
                "evaluate",
                f"data.{name}: none; name files of pairs: the independent judge is fitted on a"
                " share of them (data.judge_fraction)",
            )
    if (missing := judge.missing()) is not None:
        yield "evaluate", missing
