"""``fit-scorers``: PreferenceSet → ScorerPair, with direction and calibration checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from tailguard.artifacts import write_json
from tailguard.config import Recipe, ScorerSource
from tailguard.data import Preference
from tailguard.errors import InputError
from tailguard.pipeline.inventory import FEWEST_LABELS
from tailguard.pipeline.scorer_artifact import (
    KINDS,
    SOURCES_NAME,
    Kind,
    given_sources,
    open_source,
    source_hashes,
)
from tailguard.pipeline.sources import model_hashes, model_path
from tailguard.pipeline.stage import Stage, Work, settings_of
from tailguard.pipeline.stages.prepare import read_pairs
from tailguard.pipeline.workers import map_side_by_side
from tailguard.scorers.calibration import calibrate_scores, estimate_zero
from tailguard.scorers.check import ScorerCheck, check_scorer
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.direction import check_direction, checked_scores, direction_outlook
from tailguard.scorers.ensemble import HeadFitting, fit_ensemble
from tailguard.scorers.files import save_rater_heads, save_scorer
from tailguard.scorers.fit import ScorerTraining, fit_scorer, pair_accuracy
from tailguard.scorers.fit_raters import FEWEST_PER_RATER, fit_rater_heads
from tailguard.scorers.pair_metrics import pair_metrics
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.rated import rated_pairs
from tailguard.scorers.rater_heads import RaterHeads
from tailguard.scorers.rater_metrics import rater_metrics
from tailguard.scorers.readings import WorseReading
from tailguard.scorers.score_map import MappedScorer, ScoreMap
from tailguard.scorers.scorer import Scorer

_PAIRS_FOR_DIRECTION = 500  # enough to tell a reversed scorer; scoring more only takes time
# What changes neither what is fitted nor what a given scorer says.
_UNREAD = {"folder", "key_env", "concurrency", "timeout"}


def _config(recipe: Recipe) -> dict[str, object]:
    # The first two matter where scores are used, not where they are fitted. The backbone is an
    # input by its content, so that moving its folder changes nothing.
    unread = {"pessimism", "cost_bound", "backbone", "reward_model", "cost_model"}
    # Left out where there are none, so that runs from before there could be any stay what they are.
    unread |= {"raters"} if recipe.scorers.raters is None else set()
    given = given_sources(recipe.scorers)
    return {
        "scorers": recipe.scorers.model_dump(exclude=unread),
        "given": {kind: source.model_dump(exclude=_UNREAD) for kind, source in given.items()},
        # An answer that a classifier cannot read whole is refused here.
        "max_new_tokens": recipe.policy.max_new_tokens,
    }


def _inputs(recipe: Recipe) -> dict[str, str]:
    given = given_sources(recipe.scorers)
    hashes = source_hashes(given)
    if len(given) < len(KINDS):
        hashes |= {"backbone": model_hashes([_backbone(recipe)])[_backbone(recipe)]}
    return hashes


def _backbone(recipe: Recipe) -> str:
    return recipe.scorers.backbone or recipe.policy.model


def _build(work: Work) -> dict[str, object]:
    given = given_sources(work.recipe.scorers)
    fitted: list[Kind] = [kind for kind in KINDS if kind not in given]
    told = _check_raters(work) if work.recipe.scorers.raters else []
    for kind in fitted:
        direction_outlook(len({*_pairs(work, kind, "validate").prompt_index()}), kind)
    # First, because it takes seconds: a function that fails is not told of after the fit.
    checked = {kind: _check_given(work, kind, source) for kind, source in given.items()}
    found = dict(zip(fitted, map_side_by_side(_fit, work, fitted), strict=True))
    maps = {kind: score_map.to_json() for kind, (_, score_map) in found.items()}
    write_json(work.directory / SOURCES_NAME, {"maps": maps})
    notes = [*told, *(line for check, _ in checked.values() for line in check.warnings)]
    figures = {kind: found[kind][0] if kind in found else checked[kind][1] for kind in KINDS}
    return {**figures, "notes": notes}


STAGE = Stage("fit-scorers", "ScorerPair", 7, ("prepare",), _config, _inputs, _build)


def _check_raters(work: Work) -> list[str]:
    """What a user should know of the raters before anything is fitted."""
    field = work.recipe.scorers.raters
    raters = _pairs(work, "cost", "train").raters or []
    counts = Counter(name for name in raters if name)
    if not any(count >= FEWEST_PER_RATER for count in counts.values()):
        raise InputError(
            f"scorers.raters: no '{field}' has {FEWEST_PER_RATER} of the cost pairs that are fitted on;"
            " give pairs that name it, or leave the key out"
        )
    return _too_few(raters)


def _too_few(raters: Sequence[str | None]) -> list[str]:
    """Who is read as the population for want of pairs, in a line."""
    counts = Counter(name for name in raters if name)
    few = sorted(name for name, count in counts.items() if count < FEWEST_PER_RATER)
    if not few:
        return []
    shown = ", ".join(few[:_MOST_NAMED]) + (", …" if len(few) > _MOST_NAMED else "")
    return [
        f"scorers.raters: {len(few)} have fewer than {FEWEST_PER_RATER} cost pairs, and the population's"
        f" cost: {shown}"
    ]


_MOST_NAMED = 5


def to_pairs(
    kind: Kind,
    rows: Sequence[Preference],
    raters: Literal["annotator", "category"] | None = None,
) -> ResponsePairs:
    """Preferences as pairs of a higher and a lower answer by the scorer of this kind."""
    if kind == "reward":
        return ResponsePairs.for_reward(rows)
    return ResponsePairs.for_cost(rows, raters)


def _pairs(work: Work, kind: Kind, role: str) -> ResponsePairs:
    rows = read_pairs(work.parents["prepare"], kind, role)
    limit = work.recipe.scorers.num_pairs
    if not rows:
        raise InputError(
            f"data.{kind}_pairs: no {role} pairs; give preference files, or a scorer as"
            f" scorers.{kind}_model"
        )
    if len(rows) > limit:
        keep = work.numpy_generator(f"{kind} {role}").permutation(len(rows))[:limit]
        rows = [rows[i] for i in cast("list[int]", sorted(keep.tolist()))]
    return to_pairs(kind, rows, work.recipe.scorers.raters)


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
    save_scorer(ensemble, work.directory / kind)
    # Units come from held-out pairs: on pairs that it was fitted on, a scorer is too sure of itself.
    score_map = calibrate_scores(*_score_pairs(ensemble, held))
    used: Scorer = MappedScorer(ensemble, score_map)
    shown = {"accuracy_with_prompts": pair_accuracy(*_score_pairs(used, held))}
    if kind == "cost":
        used = WorseReading(used)
    # What is checked, and what gets its zero, is what is used: the worse of two readings.
    higher, lower = _score_pairs(used, held)
    zero = _zero(higher, lower, held)
    score_map = score_map.shifted(zero or 0.0)
    rated: dict[str, object] = {}
    if kind == "cost" and settings.raters is not None:
        heads, rated = _fit_raters(work, ensemble, score_map, (train, held))
        save_rater_heads(heads, work.directory / kind)
    units = {
        "zero_from_labels": zero is not None,
        "knots": score_map.knots.tolist(),
        "values": score_map.values.tolist(),
    }
    check = check_direction(higher, lower, held, kind=kind)
    held_out = pair_metrics(higher, lower, generator=work.numpy_generator(f"{kind} figures"))
    return {**figures, **vars(check), **held_out, **shown, **units, **rated}, score_map


def _fit_raters(
    work: Work,
    ensemble: SequenceClassificationScorer,
    score_map: ScoreMap,
    pairs: tuple[ResponsePairs, ResponsePairs],
) -> tuple[RaterHeads, dict[str, object]]:
    """What each rater minds, from pairs to fit on, and its figures on held-out ones."""
    settings = work.recipe.scorers
    train, held = (rated_pairs(ensemble, score_map, part) for part in pairs)
    heads = fit_rater_heads(train, seed=work.seed("raters"), sign_weight=settings.sign_weight)
    return heads, {"raters": rater_metrics(heads, held), "raters_width": heads.width}


def _score_pairs(scorer: Scorer, pairs: ResponsePairs) -> tuple[np.ndarray, np.ndarray]:
    higher, lower = (
        checked_scores(scorer, pairs.prompts, side) for side in (pairs.higher, pairs.lower)
    )
    return higher, lower


def _zero(higher: np.ndarray, lower: np.ndarray, held: ResponsePairs) -> float | None:
    """Where held-out labels place the zero of a cost; None for a reward, or with too few labels."""
    signs = np.array([*(held.higher_sign or ()), *(held.lower_sign or ())])
    if (signs > 0).sum() < FEWEST_LABELS or (signs < 0).sum() < FEWEST_LABELS:
        return None
    scores = np.concatenate([higher, lower]).mean(axis=1)
    return estimate_zero(scores[signs != 0], signs[signs != 0] > 0)


def _check_given(
    work: Work, kind: Kind, source: ScorerSource
) -> tuple[ScorerCheck, dict[str, object]]:
    """Hold a given scorer to its promises, and to a direction if there are pairs."""
    settings = work.recipe
    scorer = open_source(source, kind, settings.scorers.max_tokens, device=settings.scorers.device)
    window = getattr(scorer, "max_tokens", None)
    if window is not None and settings.policy.max_new_tokens > window:
        raise InputError(
            f"scorers.{kind}_model: {source.model} reads {window} tokens at most, fewer than"
            f" policy.max_new_tokens ({settings.policy.max_new_tokens}); lower that, or give another"
        )
    rows = read_pairs(work.parents["prepare"], kind, "train")[:_PAIRS_FOR_DIRECTION]
    check = check_scorer(scorer, to_pairs(kind, rows) if rows else None, kind=kind)
    told = source.model_dump(exclude_defaults=True, exclude=_UNREAD)
    return check, {"given": told, **check.to_json()}
