"""``fit-scorers``: PreferenceSet → ScorerPair, with direction and calibration checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np

from tailguard.artifacts import write_json
from tailguard.config import Recipe
from tailguard.data import Preference
from tailguard.errors import InputError
from tailguard.models.pairs import ResponsePairs
from tailguard.models.scorer import Scorer
from tailguard.models.scorer_check import check_scorer
from tailguard.models.scorer_files import load_scorer, save_scorer
from tailguard.pipeline.prepare import read_pairs
from tailguard.pipeline.scoring import SOURCES_NAME
from tailguard.pipeline.sources import model_hashes, model_path
from tailguard.pipeline.stage import Stage, Work
from tailguard.training.scorers import ScorerTraining, fit_scorer
from tailguard.uncertainty.ensemble import HeadFitting, fit_ensemble
from tailguard.uncertainty.zero import estimate_zero

Kind = Literal["reward", "cost"]
_FEWEST_LABELS = 20


def _config(recipe: Recipe) -> dict[str, Any]:
    used = {"pessimism", "cost_bound"}  # read where scores are combined, not here
    return {"scorers": recipe.scorers.model_dump(exclude=used | {"backbone"})}


def _inputs(recipe: Recipe) -> dict[str, str]:
    scorers = recipe.scorers
    hashes = model_hashes([scorers.reward_model, scorers.cost_model])
    if not (scorers.reward_model and scorers.cost_model):
        hashes |= {"backbone": model_hashes([_backbone(recipe)])[_backbone(recipe)]}
    return hashes


def _backbone(recipe: Recipe) -> str:
    return recipe.scorers.backbone or recipe.policy.model


def _build(work: Work) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    published: dict[str, str] = {}
    kinds: tuple[Kind, Kind] = ("reward", "cost")
    for kind in kinds:
        name: str = getattr(work.recipe.scorers, f"{kind}_model")
        if name:
            published[kind] = name
            metrics[kind] = _check_published(work, kind, name)
        else:
            metrics[kind] = _fit(work, kind)
    sources = {"published": published, "cost_zero": metrics["cost"].get("zero", 0.0)}
    write_json(work.directory / SOURCES_NAME, sources)
    return metrics


STAGE = Stage("fit-scorers", "ScorerPair", 2, ("prepare",), _config, _inputs, _build)


def to_pairs(kind: Kind, rows: Sequence[Preference]) -> ResponsePairs:
    """Preferences in the order in which a scorer should put the answers."""
    return ResponsePairs.for_reward(rows) if kind == "reward" else ResponsePairs.for_cost(rows)


def _pairs(work: Work, kind: Kind, role: str) -> ResponsePairs:
    rows = read_pairs(work.parents["prepare"], kind, role)
    limit = work.recipe.scorers.num_pairs
    if not rows:
        raise InputError(
            f"data.{kind}_pairs: no {role} pairs; give preference files, or a published"
            f" scorers.{kind}_model"
        )
    if len(rows) > limit:
        keep = work.numpy_generator(f"{kind} {role}").permutation(len(rows))[:limit]
        rows = [rows[i] for i in cast("list[int]", sorted(keep.tolist()))]
    return to_pairs(kind, rows)


def _fit(work: Work, kind: Kind) -> dict[str, Any]:
    settings = work.recipe.scorers
    train, held = _pairs(work, kind, "train"), _pairs(work, kind, "validate")
    scorer, figures = fit_scorer(
        model_path(_backbone(work.recipe)),
        train,
        settings=ScorerTraining(
            learning_rate=settings.learning_rate,
            num_epochs=settings.num_epochs,
            batch_size=settings.batch_size,
            num_trained_layers=settings.num_trained_layers,
            max_tokens=settings.max_tokens,
            sign_weight=settings.sign_weight,
        ),
        seed=work.seed(kind),
        on_progress=work.steps(f"{kind} scorer"),
    )
    ensemble, figures_of_heads = fit_ensemble(
        scorer,
        train,
        held,
        settings=HeadFitting(num_heads=settings.num_heads, sign_weight=settings.sign_weight),
        seed=work.seed(f"{kind} heads"),
    )
    check = check_scorer(ensemble, held, kind=kind)
    save_scorer(ensemble, work.directory / kind)
    zero = {"zero": _zero(ensemble, held)} if kind == "cost" else {}
    return {**figures, **vars(check), **figures_of_heads, **zero}


def _zero(cost: Scorer, held: ResponsePairs) -> float:
    """Where held-out labels put the zero of the cost; 0 where there are too few to say."""
    signs = np.array([*(held.higher_sign or ()), *(held.lower_sign or ())])
    if (signs > 0).sum() < _FEWEST_LABELS or (signs < 0).sum() < _FEWEST_LABELS:
        return 0.0
    answers = [*held.higher, *held.lower]
    scores = cost.score([*held.prompts, *held.prompts], answers).mean(axis=1)
    return estimate_zero(scores[signs != 0], signs[signs != 0] > 0)


def _check_published(work: Work, kind: Kind, name: str) -> dict[str, Any]:
    """A published scorer needs pairs only to show that it points the right way."""
    scorer = load_scorer(name, max_tokens=work.recipe.scorers.max_tokens)
    rows = read_pairs(work.parents["prepare"], kind, "train")
    if not rows:
        return {"model": name, "direction": "not checked: no pairs given"}
    return {"model": name, **vars(check_scorer(scorer, to_pairs(kind, rows[:500]), kind=kind))}
