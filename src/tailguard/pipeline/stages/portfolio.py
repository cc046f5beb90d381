"""``portfolio``: PolicySet → Portfolio: the trained policy, or mix of two, for each risk profile."""

from __future__ import annotations

import numpy as np

from tailguard.artifacts import write_json
from tailguard.config import Recipe
from tailguard.engines import response_log_probs
from tailguard.pipeline.sources import policy_input
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.bank import BANK_NAME, read_bank
from tailguard.pipeline.stages.plan import frontier_profiles
from tailguard.pipeline.stages.train import load_trained, policy_directories
from tailguard.pipeline.workers import map_side_by_side
from tailguard.portfolio import refit
from tailguard.risk.spelling import limit_to_json

PORTFOLIO_NAME = "portfolio.json"


def _config(recipe: Recipe) -> dict[str, object]:
    plan = recipe.plan.model_dump(include={"kl_coef", "tail_masses", "num_budgets"})
    return {"plan": plan, "policy": recipe.policy.model_dump(exclude={"model"})}


def _build(work: Work) -> dict[str, object]:
    """Profiles are mapped on one half of the prompts and judged on the other."""
    settings = work.recipe.plan
    table = read_bank(work.parents["bank"] / BANK_NAME)
    bank = table.sample_bank()
    names = list(policy_directories(work.parents["train"]))
    log_probs = np.stack(map_side_by_side(_log_probs, work, names))
    ratios = (log_probs - table.log_prob).reshape(len(names), *table.shape)
    # Every second prompt, so that both halves are alike even if the prompts are sorted in some way.
    # Regret on the prompts that the mapping was chosen on would be too small.
    first = np.arange(bank.num_prompts) % 2 == 0
    profiles = frontier_profiles(bank.take(first), settings.tail_masses, settings.num_budgets)
    fitted = refit(bank.take(first), ratios[:, first], profiles, kl_coef=settings.kl_coef)
    regret = fitted.regret(bank.take(~first), ratios[:, ~first])
    write_json(
        work.directory / PORTFOLIO_NAME,
        {
            "members": names,
            "profiles": [
                {**(limit_to_json(profile.limit) or {}), "weights": fitted.mixture(profile)}
                for profile in profiles
            ],
            "held_out_regret": regret,
        },
    )
    return {"members": names, "held_out_regret": regret}


STAGE = Stage("portfolio", "Portfolio", 2, ("bank", "train"), _config, policy_input, _build)


def _log_probs(work: Work, name: str) -> np.ndarray:
    """Log π_k of every answer in the bank, [answers]."""
    table = read_bank(work.parents["bank"] / BANK_NAME)
    log_probs = response_log_probs(
        load_trained(work.recipe, work.parents["train"], name),
        table.prompts,
        table.token_ids,
        # The reference's log-probabilities in the bank are at this temperature; a ratio needs both.
        temperature=work.recipe.policy.temperature,
        batch_size=64,
    )
    work.progress(f"portfolio: measuring {name}", 1, 1)
    return log_probs.double().numpy()
