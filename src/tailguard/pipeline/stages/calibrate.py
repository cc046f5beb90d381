"""``calibrate``: GuidedPolicy → Decoder: acceptance levels, and certificates on other prompts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tailguard.artifacts import write_json
from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.decoding import (
    Answer,
    CalibratedProfile,
    Certificate,
    Decoder,
    DecodingSetting,
    Draft,
    GuidedPolicy,
)
from tailguard.decoding.acceptance import (
    SCORE_UNAVAILABLE,
    certified_risk,
    choose_acceptance_level,
)
from tailguard.decoding.answer import verdicts_of
from tailguard.engines import prompt_seeds
from tailguard.pipeline.decoder_artifact import DECODER_NAME, DecoderFile
from tailguard.pipeline.scorer_artifact import (
    given_sources,
    load_scorer_pair,
    source_hashes,
)
from tailguard.pipeline.seen_prompts import write_seen_prompts
from tailguard.pipeline.sources import adapter_hash, policy_input
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.calibrate_dial import build_dial
from tailguard.pipeline.stages.fit_values import HEADS_NAME, GuidedPlan, read_guided
from tailguard.pipeline.stages.prepare import read_split, taught_prompt_ids
from tailguard.pipeline.stages.train import ADAPTER_NAME, load_trained, trained_adapter
from tailguard.pipeline.workers import map_side_by_side
from tailguard.risk import Threshold, shared_confidence
from tailguard.risk.spelling import limit_to_json
from tailguard.values.process_heads import ProcessHeads

CERTIFICATES_NAME = "certificates.json"
_PROMPTS_PER_STEP = 256  # of progress; the answers do not depend on it


def _config(recipe: Recipe) -> dict[str, object]:
    return {
        # The policy's name too: `decoder.json` holds it, so that a decoder finds its model.
        "decoding": recipe.decoding.model_dump(),
        "policy": recipe.policy.model_dump(),
        "scorers": recipe.scorers.model_dump(include={"cost_bound", "max_tokens"}),
        "dial": recipe.dial.model_dump(),
        "kl_coef": recipe.plan.kl_coef,
    }


def _build(work: Work) -> dict[str, object]:
    plans = read_guided(work.parents["fit-values"])
    if not plans:
        _write(work, [], [])
        return build_dial(work)
    made = map_side_by_side(_calibrate, work, plans)
    _write(work, plans, made)
    return {"certificates": [calibrated.described for calibrated in made]}


STAGE = Stage(
    "calibrate",
    "Decoder",
    9,
    ("prepare", "fit-scorers", "plan", "train", "portfolio", "fit-values"),
    _config,
    policy_input,
    _build,
)


@dataclass(frozen=True)
class _Calibrated:
    """One decoder's profile, the threshold of its certificate, and its figures as JSON."""

    profile: CalibratedProfile
    threshold: Threshold
    described: dict[str, object]


def draft_in_parts(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    setting: DecodingSetting,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[Draft]:
    """Drafts of many prompts, with progress; the same as from one call."""
    # One seed per prompt, drawn before the prompts are divided: parts change nothing.
    seeds = prompt_seeds(seed, len(prompts))
    drafts: list[Draft] = []
    for start in range(0, len(prompts), _PROMPTS_PER_STEP):
        rows = slice(start, start + _PROMPTS_PER_STEP)
        drafts += decoder.draft(prompts[rows], setting, seed=seeds[rows])
        on_progress(len(drafts), len(prompts))
    return drafts


def served_costs(answers: Sequence[Answer], bound: float) -> np.ndarray:
    """Pessimistic cost of what is served, [prompts], at most ``bound``.

    A fallback without a score counts as the largest possible cost, and so does one in the place of
    an answer without a score: a scorer that failed now may not fail later, and then that answer is
    served, of which nothing is known.
    """
    costs = [
        math.inf if answer.reason == SCORE_UNAVAILABLE else answer.risk_upper_bound
        for answer in answers
    ]
    return np.minimum(costs, bound)


def _calibrate(work: Work, plan: GuidedPlan) -> _Calibrated:
    """The acceptance level, chosen on some prompts and certified on others."""
    recipe, prepared = work.recipe, work.parents["prepare"]
    bound = recipe.scorers.cost_bound
    drafting = _profile(plan, recipe, np.inf)
    scorers = load_scorer_pair(work.parents["fit-scorers"], recipe.scorers)
    decoder = Decoder(
        {plan.policy: _guided_policy(work, plan.policy)},
        [drafting],
        cost_scorer=scorers.cost.scorer,
        reward_scorer=scorers.reward,  # as when it serves: an answer without a score is withheld
        batch_size=recipe.bank.batch_size,
    )
    num_plans = len(read_guided(work.parents["fit-values"]))
    confidence = shared_confidence(recipe.decoding.confidence, num_plans)

    def draft(split: str) -> tuple[list[Prompt], list[Draft]]:
        prompts = read_split(prepared, split)
        return prompts, draft_in_parts(
            decoder,
            prompts,
            drafting.setting,
            seed=work.seed(split),
            on_progress=work.steps(f"{split}: {plan.policy} ≤ {plan.limit.budget:.3g}"),
        )

    prompts, drafts = draft("calibrate")
    verdicts = verdicts_of(drafts)
    # Below every cost: all drafts are withheld, so this is what abstaining costs on each prompt.
    withhold_all = _profile(plan, recipe, -np.inf).setting
    by_certificate = recipe.decoding.accept_by == "certificate"
    choice = choose_acceptance_level(
        np.minimum(verdicts.bound, bound),
        verdicts,
        served_costs(decoder.settle(prompts, drafts, withhold_all), bound),
        measure=plan.limit.measure,
        budget=plan.limit.budget,
        largest_cost=bound,
        confidence=confidence,
        num_certification=len(read_split(prepared, "certify")) if by_certificate else None,
    )
    # Level and threshold were fitted to the calibration prompts, so a bound on those would not hold.
    prompts, drafts = draft("certify")
    answers = decoder.settle(prompts, drafts, _profile(plan, recipe, choice.level).setting)
    risk = certified_risk(
        served_costs(answers, bound),
        plan.limit.measure,
        choice,
        largest_cost=bound,
        confidence=confidence,
    )
    certificate = Certificate(float(risk), confidence, len(answers), decoder.strategy_name)
    profile = _profile(plan, recipe, choice.level, certificate)
    described: dict[str, object] = {"policy": plan.policy, **(limit_to_json(plan.limit) or {})}
    described |= asdict(certificate) | {"choice": asdict(choice)}
    described |= {
        "certified": profile.covers(plan.limit.budget, decoder.strategy_name)
    } | _intervention(drafts, answers)
    return _Calibrated(profile, choice.threshold, described)


def _intervention(drafts: Sequence[Draft], answers: Sequence[Answer]) -> dict[str, float | None]:
    """How often the decoder abstains, over all answers and over those that the scorer calls safe."""
    abstained = np.array([answer.abstained for answer in answers])
    safe = np.array([draft.cost is not None and draft.cost.mean <= 0 for draft in drafts])
    return {
        "abstained": float(abstained.mean()),
        "abstained_given_safe": float(abstained[safe].mean()) if safe.any() else None,
    }


def _profile(
    plan: GuidedPlan, recipe: Recipe, level: float, certificate: Certificate | None = None
) -> CalibratedProfile:
    decoding = recipe.decoding
    setting = DecodingSetting(
        limit=plan.limit,
        policy=plan.policy,
        multiplier=plan.figures.multiplier,
        threshold=plan.figures.threshold,
        pessimism=decoding.pessimism,
        acceptance_level=level,
        max_candidates=decoding.max_candidates,
        block_tokens=decoding.block_tokens,
        max_new_tokens=recipe.policy.max_new_tokens,
        temperature=recipe.policy.temperature,
        fallback=decoding.fallback,
    )
    return CalibratedProfile(setting, certificate)


def _guided_policy(work: Work, name: str) -> GuidedPolicy:
    heads = ProcessHeads.load(work.parents["fit-values"] / name / HEADS_NAME)
    adapter = trained_adapter(work.parents["train"], name)
    heads.require_policy(policy_input(work.recipe)["policy"], adapter_hash(adapter))
    policy = load_trained(work.recipe, work.parents["train"], name)
    return GuidedPolicy(policy, heads.to(policy.device))


def _write(
    work: Work,
    plans: Sequence[GuidedPlan],
    made: Sequence[_Calibrated],
) -> None:
    """Copy everything that answering needs; models from elsewhere are named with their hashes."""
    directory, recipe = work.directory, work.recipe
    scorers = work.parents["fit-scorers"]
    shutil.copytree(scorers, directory / "scorers", ignore=shutil.ignore_patterns("manifest.json"))
    for name in dict.fromkeys(plan.policy for plan in plans):
        folder: Path = directory / "policies" / name
        folder.mkdir(parents=True)
        shutil.copy(work.parents["fit-values"] / name / HEADS_NAME, folder / HEADS_NAME)
        if (adapter := trained_adapter(work.parents["train"], name)) is not None:
            shutil.copytree(adapter, folder / ADAPTER_NAME)
    content = DecoderFile(
        model=recipe.policy.model,
        model_hash=policy_input(recipe)["policy"],
        trust_remote_code=recipe.policy.trust_remote_code,
        cost_bound=recipe.scorers.cost_bound,
        max_scorer_tokens=recipe.scorers.max_tokens,
        profiles=tuple(calibrated.profile for calibrated in made),
        thresholds=tuple(calibrated.threshold for calibrated in made),
        dtype=recipe.policy.dtype,
        given=given_sources(recipe.scorers),
        scorer_hashes=source_hashes(given_sources(recipe.scorers)),
    )
    content.write(directory / DECODER_NAME)
    write_json(directory / CERTIFICATES_NAME, [calibrated.described for calibrated in made])
    # `tailguard certify` refuses these: a bound on prompts that took part would not hold.
    write_seen_prompts(directory, taught_prompt_ids(work.parents["prepare"]))
