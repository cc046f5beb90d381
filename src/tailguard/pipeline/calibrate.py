"""``calibrate``: GuidedPolicy → Decoder: acceptance levels, and certificates on other prompts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tailguard.artifacts import write_json
from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.data.table import write_table
from tailguard.decoding import (
    CalibratedProfile,
    Certificate,
    Decoder,
    DecodingSetting,
    Draft,
    GuidedPolicy,
    prompt_seeds,
)
from tailguard.decoding.acceptance import AcceptanceChoice, accepted, choose_acceptance_level
from tailguard.models.process_heads import ProcessHeads
from tailguard.pipeline.decoder_files import DECODER_NAME, DecoderFile
from tailguard.pipeline.fit_values import HEADS_NAME, GuidedPlan, read_guided
from tailguard.pipeline.prepare import read_split, taught_prompt_ids
from tailguard.pipeline.scoring import load_scorer_pair
from tailguard.pipeline.sources import model_hashes
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.train import ADAPTER_NAME, load_trained, policy_directories
from tailguard.risk import CVaR, cvar_upper_bound

CERTIFICATES_NAME = "certificates.json"
SEEN_NAME = "seen_prompts.parquet"
_PART = 256


def _config(recipe: Recipe) -> dict[str, Any]:
    return {
        "decoding": recipe.decoding.model_dump(),
        "policy": recipe.policy.model_dump(),
        "scorers": recipe.scorers.model_dump(include={"cost_bound", "max_tokens"}),
    }


def _inputs(recipe: Recipe) -> dict[str, str]:
    return {"policy": model_hashes([recipe.policy.model])[recipe.policy.model]}


def _build(work: Work) -> dict[str, Any]:
    recipe, prepared = work.recipe, work.parents["prepare"]
    calibrate, certify = read_split(prepared, "calibrate"), read_split(prepared, "certify")
    plans = read_guided(work.parents["fit-values"])
    policies = {plan.policy: _guided_policy(work, plan.policy) for plan in plans}
    scorers = load_scorer_pair(work.parents["fit-scorers"], recipe.scorers)
    drafting = Decoder(
        policies,
        [_profile(plan, recipe, np.inf) for plan in plans],
        cost_scorer=scorers.cost.scorer,
        batch_size=recipe.bank.batch_size,
    )
    profiles: list[CalibratedProfile] = []
    certificates: list[dict[str, Any]] = []
    # Certificates hold together: each is made at a share of what may go wrong (a union bound).
    confidence = 1.0 - (1.0 - recipe.decoding.confidence) / max(len(plans), 1)
    for plan in plans:
        name = f"{plan.policy} ≤ {plan.budget:.3g}"
        draft = _drafter(drafting, _profile(plan, recipe, np.inf).setting, work, name)
        bound = recipe.scorers.cost_bound
        by_certificate = recipe.decoding.accept_by == "certificate"
        choice = _choose(
            draft(calibrate, "calibrate"),
            plan,
            bound,
            confidence,
            len(certify) if by_certificate else None,
        )
        held = draft(certify, "certify")
        certificate = _certify(held, plan, choice, bound, confidence)
        profiles.append(_profile(plan, recipe, choice.level, certificate))
        certificates.append(
            {"policy": plan.policy, "tail_mass": plan.tail_mass, "budget": plan.budget}
            | asdict(certificate)
            | {"certified": profiles[-1].covers(plan.budget), "choice": asdict(choice)}
            | _intervention(held, choice)
        )
    _write(work, plans, profiles, certificates)
    return {"certificates": certificates}


STAGE = Stage(
    "calibrate",
    "Decoder",
    3,
    ("prepare", "fit-scorers", "train", "portfolio", "fit-values"),
    _config,
    _inputs,
    _build,
)


def draft_in_parts(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    setting: DecodingSetting,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[Draft]:
    """Drafts of many prompts, with progress; the same as in one go."""
    seeds = prompt_seeds(seed, len(prompts))
    drafts: list[Draft] = []
    for start in range(0, len(prompts), _PART):
        rows = slice(start, start + _PART)
        drafts += decoder.draft(prompts[rows], setting, seed=seeds[rows])
        on_progress(len(drafts), len(prompts))
    return drafts


def served_costs(drafts: Sequence[Draft], level: float, bound: float) -> np.ndarray:
    """Pessimistic cost of what is served at an acceptance level, [prompts], at most ``bound``.

    A fallback without a score counts as the worst there can be.
    """
    costs, fallbacks = _costs(drafts)
    return np.minimum(np.where(accepted(costs, level), costs, fallbacks), bound)


def _costs(drafts: Sequence[Draft]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([draft.cost_bound for draft in drafts]),
        np.array([draft.fallback_bound for draft in drafts]),
    )


def _drafter(
    decoder: Decoder, setting: DecodingSetting, work: Work, name: str
) -> Callable[[Sequence[Prompt], str], list[Draft]]:
    return lambda prompts, purpose: draft_in_parts(
        decoder,
        prompts,
        setting,
        seed=work.seed(purpose),
        on_progress=work.steps(f"{purpose}: {name}"),
    )


def _choose(
    drafts: Sequence[Draft],
    plan: GuidedPlan,
    bound: float,
    confidence: float,
    num_certification: int | None,
) -> AcceptanceChoice:
    costs, fallbacks = _costs(drafts)
    return choose_acceptance_level(
        np.minimum(costs, bound),
        costs,
        np.minimum(fallbacks, bound),
        measure=CVaR(plan.tail_mass),
        budget=plan.budget,
        largest_cost=bound,
        confidence=confidence,
        num_certification=num_certification,
    )


def _certify(
    drafts: Sequence[Draft],
    plan: GuidedPlan,
    choice: AcceptanceChoice,
    bound: float,
    confidence: float,
) -> Certificate:
    risk = cvar_upper_bound(
        served_costs(drafts, choice.level, bound),
        plan.tail_mass,
        choice.threshold,
        upper=bound,
        confidence=confidence,
    )
    return Certificate(float(risk), confidence, len(drafts))


def _intervention(drafts: Sequence[Draft], choice: AcceptanceChoice) -> dict[str, float | None]:
    """How often the decoder abstains, and on how many of the answers that the scorer calls safe."""
    costs, _ = _costs(drafts)
    keep = accepted(costs, choice.level)
    means = np.array([np.inf if d.cost is None else d.cost.mean for d in drafts])
    safe = means <= 0
    return {
        "abstained": float(1.0 - keep.mean()),
        "abstained_given_safe": float((~keep[safe]).mean()) if safe.any() else None,
    }


def _profile(
    plan: GuidedPlan, recipe: Recipe, level: float, certificate: Certificate | None = None
) -> CalibratedProfile:
    decoding = recipe.decoding
    setting = DecodingSetting(
        policy=plan.policy,
        multiplier=plan.multiplier,
        threshold=plan.threshold,
        tail_mass=plan.tail_mass,
        pessimism=decoding.pessimism,
        acceptance_level=level,
        max_candidates=decoding.max_candidates,
        block_tokens=decoding.block_tokens,
        max_new_tokens=recipe.policy.max_new_tokens,
        temperature=recipe.policy.temperature,
        fallback=decoding.fallback,
    )
    return CalibratedProfile("cvar", plan.tail_mass, plan.budget, setting, certificate)


def _guided_policy(work: Work, name: str) -> GuidedPolicy:
    heads = ProcessHeads.load(work.parents["fit-values"] / name / HEADS_NAME)
    return GuidedPolicy(load_trained(work.recipe, work.parents["train"], name), heads)


def _write(
    work: Work,
    plans: Sequence[GuidedPlan],
    profiles: Sequence[CalibratedProfile],
    certificates: list[dict[str, Any]],
) -> None:
    """Copy everything that answering needs but the reference model, which is named by its hash."""
    directory, recipe = work.directory, work.recipe
    scorers = work.parents["fit-scorers"]
    shutil.copytree(scorers, directory / "scorers", ignore=shutil.ignore_patterns("manifest.json"))
    trained = policy_directories(work.parents["train"])
    for name in dict.fromkeys(plan.policy for plan in plans):
        folder: Path = directory / "policies" / name
        folder.mkdir(parents=True)
        shutil.copy(work.parents["fit-values"] / name / HEADS_NAME, folder / HEADS_NAME)
        if name != "base":
            shutil.copytree(trained[name] / ADAPTER_NAME, folder / ADAPTER_NAME)
    content = DecoderFile(
        model=recipe.policy.model,
        model_hash=_inputs(recipe)["policy"],
        trust_remote_code=recipe.policy.trust_remote_code,
        cost_bound=recipe.scorers.cost_bound,
        max_scorer_tokens=recipe.scorers.max_tokens,
        profiles=tuple(profiles),
        thresholds=tuple(entry["choice"]["threshold"] for entry in certificates),
    )
    content.write(directory / DECODER_NAME)
    write_json(directory / CERTIFICATES_NAME, certificates)
    seen = sorted(taught_prompt_ids(work.parents["prepare"]))
    write_table(directory / SEEN_NAME, {"prompt_id": seen})
