"""Certificates of a decoder on new prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tailguard.data import Prompt, prompt_id
from tailguard.decoding import match_profile
from tailguard.errors import InputError
from tailguard.pipeline.decoder_artifact import check_decoder, load_decoder
from tailguard.pipeline.seen_prompts import read_seen_prompts
from tailguard.pipeline.stages.calibrate import draft_in_parts, served_costs
from tailguard.risk import CVaR, RiskLimit, risk_upper_bound


def certify_decoder(
    path: Path,
    prompts: Sequence[Prompt],
    *,
    tail_mass: float,
    budget: float | None,
    confidence: float,
    seed: int,
) -> dict[str, object]:
    """Bound the CVaR of what a decoder serves on prompts that it never saw.

    Args:
        path: of the decoder, or of the folder of its run.
        prompts: held out.
        tail_mass: α.
        budget: d of the profile to certify; None for the strictest profile at this tail mass.
        confidence: confidence level of the bound.
        seed: seed of the sampling.

    Raises:
        InputError: a prompt that the decoder was trained or calibrated on, or a number out of range.
        InfeasibleError: no profile is as strict.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"--confidence {confidence}: give a number between 0 and 1")
    directory, content = check_decoder(path)
    # Before the models are loaded: this takes a moment, loading them may take minutes.
    seen = read_seen_prompts(directory)
    overlap = sum(prompt_id(prompt) in seen for prompt in prompts)
    if overlap:
        raise InputError(
            f"--prompts: {overlap} of {len(prompts)} were used to train or calibrate this decoder;"
            " a certificate needs prompts that it never saw"
        )
    decoder = load_decoder(directory)
    measure = CVaR(tail_mass)
    if budget is None:
        budgets = [p.limit.budget for p in decoder.profiles if p.limit.measure.dominates(measure)]
        budget = min(budgets, default=math.inf)
    profile = match_profile(decoder.profiles, RiskLimit(measure, budget))
    threshold = content.thresholds[decoder.profiles.index(profile)]
    drafts = draft_in_parts(
        decoder, prompts, profile.setting, seed=seed, on_progress=lambda done, total: None
    )
    answers = decoder.settle(prompts, drafts, profile.setting)
    # The profile's measure is never the smaller one, so a bound on it would hold too. With a single
    # threshold the measure that was asked for can be bounded itself; several thresholds belong to
    # the profile's own measure.
    bounded = measure if np.ndim(threshold) == 0 else profile.limit.measure
    bound = risk_upper_bound(
        served_costs(answers, content.cost_bound),
        bounded,
        threshold,
        upper=content.cost_bound,
        confidence=confidence,
    )
    return {
        "measure": "cvar",
        "tail_mass": tail_mass,
        "budget": profile.limit.budget,
        "risk_upper_bound": bound,
        "confidence": confidence,
        "certified": bound <= profile.limit.budget,
        "num_prompts": len(prompts),
        "abstained": sum(answer.abstained for answer in answers) / len(answers),
    }
