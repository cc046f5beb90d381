"""Requests to a decoder from outside: measures by name, and certificates on new prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tailguard.data import Prompt, prompt_id
from tailguard.data.table import read_table
from tailguard.decoding import match_profile
from tailguard.errors import InputError
from tailguard.pipeline.decoder_artifact import check_decoder, load_decoder
from tailguard.pipeline.stages.calibrate import SEEN_NAME, draft_in_parts, served_costs
from tailguard.risk import CVaR, Mean, RiskMeasure, cvar_upper_bound

MEASURES = ("cvar", "mean", "mean-cvar", "entropic")


def request_measure(name: str, tail_mass: float | None, budget: float | None) -> RiskMeasure | None:
    """The measure that a command asks for; None where it leaves the choice to the decoder.

    Raises:
        InputError: an unknown name, CVaR of which only tail mass or budget is given, or the mean
            without a budget.
    """
    if name not in MEASURES:
        raise InputError(f"--measure {name}: give one of {', '.join(MEASURES)}")
    if name == "mean":
        if budget is None:
            raise InputError("--measure mean: give --budget beside it")
        return Mean()
    if name != "cvar":
        raise InputError(f"--measure {name}: this decoder is calibrated for cvar and mean only")
    if tail_mass is None and budget is not None:
        raise InputError(f"--budget {budget:g}: give --tail-mass beside it, the α of CVaR")
    if tail_mass is not None and budget is None:
        raise InputError(f"--tail-mass {tail_mass:g}: give --budget beside it, the limit on CVaR")
    return None if tail_mass is None else CVaR(tail_mass)


def certify_decoder(
    path: Path,
    prompts: Sequence[Prompt],
    *,
    tail_mass: float,
    budget: float | None,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Bound the CVaR of what a decoder serves on prompts that it never saw.

    Raises:
        InputError: a prompt that the decoder was trained or calibrated on, or bad numbers.
        InfeasibleError: no profile is as strict.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"--confidence {confidence}: must lie in (0, 1)")
    directory, content = check_decoder(path)
    seen = set(read_table(directory / SEEN_NAME)["prompt_id"])
    overlap = sum(prompt_id(prompt) in seen for prompt in prompts)
    if overlap:
        raise InputError(
            f"--prompts: {overlap} of {len(prompts)} were used to train or calibrate this decoder;"
            " a certificate needs prompts that it never saw"
        )
    decoder = load_decoder(directory)
    if budget is None:  # the strictest there is at such a tail mass
        near = [p.budget for p in decoder.profiles if p.tail_mass <= tail_mass]
        budget = min(near, default=math.inf)
    profile = match_profile(decoder.profiles, "cvar", tail_mass, budget)
    threshold = content.thresholds[decoder.profiles.index(profile)]
    drafts = draft_in_parts(
        decoder, prompts, profile.setting, seed=seed, on_progress=lambda done, total: None
    )
    answers = decoder.settle(prompts, drafts, profile.setting)
    bound = cvar_upper_bound(
        served_costs(answers, content.cost_bound),
        tail_mass,
        threshold,
        upper=content.cost_bound,
        confidence=confidence,
    )
    return {
        "measure": "cvar",
        "tail_mass": tail_mass,
        "budget": profile.budget,
        "risk_upper_bound": bound,
        "confidence": confidence,
        "certified": bound <= profile.budget,
        "num_prompts": len(prompts),
        "abstained": sum(answer.abstained for answer in answers) / len(answers),
    }
