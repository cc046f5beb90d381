"""``train``: Plan → PolicySet: one LoRA adapter per target, each an artifact of its own.

After that, rounds in which the policy that serves users worst is trained on (`train_rounds`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tailguard.artifacts import (
    Header,
    build_artifact,
    read_json,
    read_manifest,
    require_sealed,
    write_json,
)
from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.models.policy import Policy
from tailguard.pipeline.plan_artifact import PlannedTarget, read_plan, read_weights
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.sources import load_reference, policy_input, policy_path
from tailguard.pipeline.stage import Stage, Work, settings_of
from tailguard.pipeline.stages.bank import BANK_NAME, read_bank
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train_rounds import (
    TrainedMember,
    held_out_prompts,
    told,
    train_on,
)
from tailguard.pipeline.workers import map_side_by_side
from tailguard.training.adapters import TrainedAdapter
from tailguard.training.distillation import DistillationSettings, distil
from tailguard.training.dual import PlannedConstraint
from tailguard.training.on_policy import RLOOSettings, train_rloo

POLICIES_NAME = "policies.json"
ADAPTER_NAME = "adapter"
CURVES_NAME = "curves.json"
_DISTILLED_NAME = "distilled"  # an adapter that on-policy steps start from; not kept
ROUNDS_NAME = "rounds.json"
_VERSION = 6


def _config(recipe: Recipe) -> dict[str, object]:
    # β is missing because the plan's id, a parent, already depends on it.
    return {
        "train": recipe.train.model_dump(),
        **({"margin": recipe.dial.margin} if recipe.train.num_rounds else {}),
        "policy": recipe.policy.model_dump(exclude={"model"}),
        "scorers": recipe.scorers.model_dump(include={"pessimism", "cost_bound", "max_tokens"}),
    }


def _build(work: Work) -> dict[str, object]:
    targets = read_plan(work.parents["plan"]).targets
    paths = map_side_by_side(_train, work, targets)
    made = {target.name: path for target, path in zip(targets, paths, strict=True)}
    rounds: dict[str, object] = {}
    if work.recipe.train.num_rounds and made:
        done = train_on(
            work,
            read_bank(work.parents["bank"] / BANK_NAME),
            {TrainedMember(t.name, work.root / made[t.name]): t for t in targets},
            lambda member, target: _train_on(work, member, target),
            lambda member: member.directory / ADAPTER_NAME,
        )
        made = {member.name: member.directory.name for member in done.members}
        rounds = told(done)
    write_json(work.directory / POLICIES_NAME, made)
    write_json(work.directory / ROUNDS_NAME, rounds)
    metrics = {name: read_manifest(work.root / path).metrics for name, path in made.items()}
    # All policies are of one base, so that one line serves for all.
    notes = dict.fromkeys(str(figures["covers"]) for figures in metrics.values())
    return {**metrics, "rounds": rounds, "notes": list(notes)}


STAGE = Stage(
    "train",
    "PolicySet",
    _VERSION,
    ("prepare", "fit-scorers", "bank", "plan"),
    _config,
    policy_input,
    _build,
)


def policy_directories(policy_set: Path) -> dict[str, Path]:
    """Target name → directory of its trained policy.

    Raises:
        InputError: one of them is missing or its files were changed.
    """
    names: dict[str, str] = read_json(policy_set / POLICIES_NAME)
    found = {name: policy_set.parent / directory for name, directory in names.items()}
    for directory in found.values():
        if not directory.is_dir():
            raise InputError(
                f"{directory}: is missing, but {policy_set} refers to it; delete that folder too and"
                " run the same command again"
            )
        require_sealed(directory)
    return found


def trained_targets(policy_set: Path) -> dict[str, PlannedTarget]:
    """Policy → what it was trained towards last, which a round may have changed; the loosest first.

    Raises:
        InputError: as `policy_directories`.
    """
    targets = {
        name: PlannedTarget.from_json(read_manifest(directory).metrics["target"])
        for name, directory in policy_directories(policy_set).items()
    }
    return dict(sorted(targets.items(), key=lambda named: -named[1].figures.reward))


def load_trained(recipe: Recipe, policy_set: Path, name: str) -> Policy:
    """A trained policy, its adapter merged into the reference policy, which ``base`` names.

    Raises:
        InputError: an unknown policy, or its files were changed.
    """
    return load_reference(recipe, trained_adapter(policy_set, name))


def trained_adapter(policy_set: Path, name: str) -> Path | None:
    """The folder of a policy's adapter; None for ``base``.

    Raises:
        InputError: an unknown policy, or its files were changed.
    """
    if name == "base":
        return None
    trained = policy_directories(policy_set)
    if name not in trained:
        raise InputError(f"no policy '{name}' is trained; there are base, {', '.join(trained)}")
    return trained[name] / ADAPTER_NAME


def _train(work: Work, target: PlannedTarget) -> str:
    """Train one policy; the name of its folder.

    Each policy is an artifact of its own, so that a run that is stopped loses only those that were
    being trained.
    """
    header = Header(
        kind="Policy",
        stage=f"train-{target.name}",
        version=_VERSION,
        config={"seed": work.recipe.seed, "target": target.name} | _config(work.recipe),
        parents=dict(work.parents),
        inputs=policy_input(work.recipe),
    )
    path, _ = build_artifact(
        work.root, header, lambda directory: _build_policy(work, target, directory)
    )
    return path.name


def _train_on(work: Work, member: TrainedMember, target: PlannedTarget) -> TrainedMember:
    """One round: the on-policy steps again from where the member is, towards another target."""
    number = member.round_number + 1
    header = Header(
        kind="Policy",
        stage=f"train-{target.name}",
        version=_VERSION,
        config={"seed": work.recipe.seed, "round": number, "target": target.to_json()}
        | _config(work.recipe),
        parents={**work.parents, "before": member.directory},
        inputs=policy_input(work.recipe),
    )

    def build(directory: Path) -> dict[str, object]:
        start, out = member.directory / ADAPTER_NAME, directory / ADAPTER_NAME
        trained = _on_policy(work, target, start, out, f"{target.name}, round {number}")
        return _write_policy(directory, target, trained, {"rloo": trained.curve})

    path, _ = build_artifact(work.root, header, build)
    return TrainedMember(member.name, path, number)


def _build_policy(work: Work, target: PlannedTarget, directory: Path) -> dict[str, object]:
    settings = work.recipe.train
    out = directory / (_DISTILLED_NAME if settings.num_steps else ADAPTER_NAME)
    trained = distilled = _distil(work, target, out)
    curves = {"distillation": distilled.curve}
    if settings.num_steps:
        trained = _on_policy(work, target, distilled.path, directory / ADAPTER_NAME, target.name)
        curves["rloo"] = trained.curve
        shutil.rmtree(out)
    return _write_policy(directory, target, trained, curves)


def _write_policy(
    directory: Path,
    target: PlannedTarget,
    trained: TrainedAdapter,
    curves: Mapping[str, list[dict[str, float]]],
) -> dict[str, object]:
    """Write the curves beside the adapter; the policy's figures."""
    write_json(directory / CURVES_NAME, curves)
    last: dict[str, object] = {f"last_{key}": rows[-1] for key, rows in curves.items()}
    covered = {"covers": trained.coverage.describe(), "coverage": trained.coverage.to_json()}
    return {"target": target.to_json(), **covered, **last}


def _distil(work: Work, target: PlannedTarget, out: Path) -> TrainedAdapter:
    recipe = work.recipe
    table = read_bank(work.parents["bank"] / BANK_NAME)
    num_prompts, num_samples = table.shape
    rows = np.flatnonzero(~held_out_prompts(num_prompts, recipe.train.num_rounds))
    return distil(
        policy_path(recipe),
        _taught(work),
        [table.token_ids[row * num_samples : (row + 1) * num_samples] for row in rows],
        _normalised(read_weights(work.parents["plan"], target.name)[rows]),
        out,
        settings=settings_of(
            DistillationSettings,
            recipe.train,
            draws_per_prompt=recipe.train.distill_samples,
            num_passes=recipe.train.distill_epochs,
            learning_rate=recipe.train.distill_learning_rate,
            seed=work.seed(f"distil {target.name}"),
            device=recipe.policy.device,
            dtype=recipe.policy.dtype,
        ),
        on_progress=work.steps(f"{target.name}: distillation"),
    )


def _taught(work: Work) -> list[Prompt]:
    """The prompts that policies are trained on."""
    prompts = read_split(work.parents["prepare"], "train")
    held = held_out_prompts(len(prompts), work.recipe.train.num_rounds)
    return [prompt for prompt, out in zip(prompts, held, strict=True) if not out]


def _normalised(weights: np.ndarray) -> np.ndarray:
    """Rows that sum to 1 in float64; on disk they are float32."""
    exact = weights.astype(np.float64)
    return exact / exact.sum(axis=1, keepdims=True)


def _on_policy(
    work: Work, target: PlannedTarget, start: Path, out: Path, what: str
) -> TrainedAdapter:
    recipe = work.recipe
    scorers = load_scorer_pair(work.parents["fit-scorers"], recipe.scorers)
    return train_rloo(
        policy_path(recipe),
        _taught(work),
        out,
        scorers=scorers,
        constraints=constraints_of(target, scorers.raters),
        rater_cost=(scorers.raters, scorers.cost.score_raters) if target.raters else None,
        settings=settings_of(
            RLOOSettings,
            recipe.train,
            kl_coef=recipe.plan.kl_coef,
            max_new_tokens=recipe.policy.max_new_tokens,
            seed=work.seed(f"rloo {what}"),
            device=recipe.policy.device,
            dtype=recipe.policy.dtype,
        ),
        start_adapter=start,
        on_progress=work.steps(f"{what}: on-policy"),
    )


def constraints_of(target: PlannedTarget, raters: Sequence[str]) -> list[PlannedConstraint]:
    """What is trained towards: with raters, the costs are a column for each."""
    if target.limit is None:
        return []
    if target.each:
        return [
            PlannedConstraint(
                target.limit, part.threshold, part.multiplier, list(raters).index(part.rater)
            )
            for part in target.each
        ]
    figures = target.figures
    if target.shares:
        shares = tuple(target.shares[name] for name in raters)
        return [
            PlannedConstraint(target.limit, figures.threshold, figures.multiplier, shares=shares)
        ]
    return [PlannedConstraint(target.limit, figures.threshold, figures.multiplier)]
