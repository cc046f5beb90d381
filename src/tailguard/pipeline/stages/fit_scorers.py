"""``fit-scorers``: PreferenceSet → ScorerPair, with direction and calibration checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from tailguard.artifacts import write_json
from tailguard.config import Recipe
from tailguard.data import Preference
from tailguard.errors import InputError
from tailguard.pipeline.inventory import FEWEST_LABELS
from tailguard.pipeline.scorer_artifact import SOURCES_NAME
from tailguard.pipeline.sources import model_hashes, model_path
from tailguard.pipeline.stage import Stage, Work, settings_of
from tailguard.pipeline.stages.prepare import read_pairs
from tailguard.pipeline.workers import map_side_by_side
from tailguard.scorers.calibration import calibrate_scores, estimate_zero
from tailguard.scorers.direction import check_direction, check_scorer, checked_scores
from tailguard.scorers.ensemble import HeadFitting, fit_ensemble
from tailguard.scorers.files import load_scorer, save_scorer
from tailguard.scorers.fit import ScorerTraining, fit_scorer
from tailguard.scorers.pair_metrics import pair_metrics
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.score_map import ScoreMap

Kind = Literal["reward", "cost"]
_PAIRS_FOR_DIRECTION = 500  # enough to tell a reversed scorer; scoring more only takes time


def _config(recipe: Recipe) -> dict[str, object]:
    # The first two matter where scores are used, not where they are fitted. The backbone is an
    # input by its content, so that moving its folder changes nothing.
    unread = {"pessimism", "cost_bound", "backbone"}
    return {"scorers": recipe.scorers.model_dump(exclude=unread)}


def _inputs(recipe: Recipe) -> dict[str, str]:
    scorers = recipe.scorers
    hashes = model_hashes([scorers.reward_model, scorers.cost_model])
    if not (scorers.reward_model and scorers.cost_model):
        hashes |= {"backbone": model_hashes([_backbone(recipe)])[_backbone(recipe)]}
    return hashes


def _backbone(recipe: Recipe) -> str:
    return recipe.scorers.backbone or recipe.policy.model


def _build(work: Work) -> dict[str, object]:
    kinds: tuple[Kind, ...] = ("reward", "cost")
    published = {kind: getattr(work.recipe.scorers, f"{kind}_model") for kind in kinds}
    fitted: list[Kind] = [kind for kind in kinds if not published[kind]]
    found = dict(zip(fitted, map_side_by_side(_fit, work, fitted), strict=True))
    maps = {kind: score_map.to_json() for kind, (_, score_map) in found.items()}
    write_json(work.directory / SOURCES_NAME, {"published": published, "maps": maps})
    return {
        kind: found[kind][0] if kind in found else _check_published(work, kind, published[kind])
        for kind in kinds
    }


STAGE = Stage("fit-scorers", "ScorerPair", 4, ("prepare",), _config, _inputs, _build)


def to_pairs(kind: Kind, rows: Sequence[Preference]) -> ResponsePairs:
    """Preferences as pairs of a higher and a lower answer by the scorer of this kind."""
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


def _fit(work: Work, kind: Kind) -> tuple[dict[str, object], ScoreMap]:
    """Fit one scorer and its ensemble, check them on held-out pairs, and find their units."""
    settings = work.recipe.scorers
    train, held = _pairs(work, kind, "train"), _pairs(work, kind, "validate")
    scorer, figures = fit_scorer(
        model_path(_backbone(work.recipe)),
        train,
        settings=settings_of(ScorerTraining, settings),
        seed=work.seed(kind),
        on_progress=work.steps(f"{kind} scorer"),
    )
    ensemble = fit_ensemble(
        scorer,
        train,
        settings=settings_of(HeadFitting, settings),
        seed=work.seed(f"{kind} heads"),
    )
    higher, lower = (
        checked_scores(ensemble, held.prompts, side) for side in (held.higher, held.lower)
    )
    check = check_direction(higher, lower, held, kind=kind)
    save_scorer(ensemble, work.directory / kind)
    # Units come from held-out pairs: on pairs that it was fitted on, a scorer is too sure of itself.
    score_map, placed = _units(higher, lower, held)
    units = {
        "zero_from_labels": placed,
        "knots": score_map.knots.tolist(),
        "values": score_map.values.tolist(),
    }
    held_out = pair_metrics(higher, lower, generator=work.numpy_generator(f"{kind} figures"))
    return {**figures, **vars(check), **held_out, **units}, score_map


def _units(higher: np.ndarray, lower: np.ndarray, held: ResponsePairs) -> tuple[ScoreMap, bool]:
    """Units from held-out comparisons; the zero of a cost from held-out labels.

    Args:
        higher: scores of the held-out answers that should be higher [n, members].
        lower: of the others.
        held: the pairs, with their labels.

    Returns:
        The map, and whether labels placed its zero.
    """
    found = calibrate_scores(higher, lower)
    signs = np.array([*(held.higher_sign or ()), *(held.lower_sign or ())])
    if (signs > 0).sum() < FEWEST_LABELS or (signs < 0).sum() < FEWEST_LABELS:
        return found, False  # a reward, or too few labels to place the zero of the cost
    scores = found(np.concatenate([higher, lower])).mean(axis=1)
    return found.shifted(estimate_zero(scores[signs != 0], signs[signs != 0] > 0)), True


def _check_published(work: Work, kind: Kind, name: str) -> dict[str, object]:
    """Check the direction of a published scorer, if there are pairs to check it on."""
    scorer = load_scorer(name, max_tokens=work.recipe.scorers.max_tokens)
    rows = read_pairs(work.parents["prepare"], kind, "train")
    if not rows:
        return {"model": name, "direction": "not checked: no pairs given"}
    return {
        "model": name,
        **vars(check_scorer(scorer, to_pairs(kind, rows[:_PAIRS_FOR_DIRECTION]), kind=kind)),
    }
