"""Few planned policies for many profiles on synthetic banks of three tail families; part of `portfolio.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailguard.planning import SampleBank, Solution, frontier
from tailguard.portfolio import Profile, select
from tailguard.portfolio.mixing import Mixer
from tailguard.portfolio.portfolio import Portfolio
from tailguard.portfolio.regret import regret_scale
from tailguard.risk import CVaR, Mean, MeanCVaR, RiskLimit

FAMILIES = ("gaussian", "pareto", "rare disaster")
NUM_MEMBERS = 4
KL_COEF = 0.25
_ALPHAS = (0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Served:
    """Profiles served on fresh prompts.

    Attributes:
        regret: mean over profiles that some policy can meet there, in units of the value span; a
            broken or refused profile counts as 1.
        broken: share whose budget is exceeded there though it was met with the margin.
        refused: share for which nothing met the budget with the margin.
    """

    regret: float
    broken: float
    refused: float


def bank_of(family: str, seed: int, num_prompts: int = 512, num_samples: int = 32) -> SampleBank:
    """Answers whose reward and risk grow with the same latent boldness, unlike between prompts."""
    rng = np.random.default_rng(seed)
    shape = (num_prompts, num_samples)
    bold = rng.normal(size=shape) + 0.5 * rng.normal(size=(num_prompts, 1))
    danger = np.exp(0.5 * rng.normal(size=(num_prompts, 1)))
    reward = bold + 0.5 * rng.normal(size=shape)
    if family == "gaussian":
        cost = danger * (0.5 * bold - 0.5) + 0.7 * rng.normal(size=shape)
    elif family == "pareto":
        tail = np.minimum(rng.pareto(2.5, size=shape), 30.0)
        cost = -1.0 + danger * np.exp(0.5 * bold) * tail
    else:
        chance = 1.0 / (1.0 + np.exp(4.0 - bold - danger))
        cost = np.where(rng.random(shape) < chance, rng.uniform(4.0, 8.0, shape), -1.0)
        cost += 0.1 * rng.normal(size=shape)
    return SampleBank(reward, cost)


def profiles_of(bank: SampleBank, shares: Sequence[float]) -> list[Profile]:
    """Limits on several measures, at shares of the way from the reference's risk to a low one."""
    measures = [*(CVaR(a) for a in _ALPHAS), Mean(), MeanCVaR(0.1, 0.5)]
    found: list[Profile] = []
    for measure in measures:
        start = measure.value(bank.cost.ravel())
        low = measure.value(np.sort(bank.cost, axis=1)[:, :8].ravel())
        found += [Profile(measure, start - share * (start - low)) for share in shares]
    return found


def compare(family: str, seed: int) -> dict[str, Served]:
    """Choices of members and ways to serve, on a bank's prompts and then on fresh ones."""
    bank, fresh = bank_of(family, 2 * seed), bank_of(family, 2 * seed + 1)
    trained_for = profiles_of(bank, (0.2, 0.4, 0.6, 0.8))
    asked = profiles_of(bank, (0.15, 0.35, 0.55, 0.75))
    ours = select(bank, trained_for, KL_COEF, num_policies=NUM_MEMBERS, margin=2.0)
    rng = np.random.default_rng(seed)
    others = {
        "even α": [Profile(CVaR(a), p.budget) for a, p in _middle(bank)],
        "uniform": [p for p in profiles_of(bank, (0.2, 0.45, 0.7)) if p.measure == CVaR(0.1)],
        "random": [trained_for[i] for i in rng.permutation(len(trained_for))[: NUM_MEMBERS - 1]],
    }
    best = frontier(fresh, [RiskLimit(Mean(), np.inf), *(p.limit for p in asked)], KL_COEF)
    found = {
        "four, mixed (margin 2)": serve(ours, asked, fresh, best),
        "four, mixed (margin 1)": serve(_with_margin(ours, 1.0), asked, fresh, best),
        "four, routed (margin 2)": serve(ours, asked, fresh, best, single=True),
    }
    for name, number in (("two", 2), ("three", 3)):
        chosen = select(bank, trained_for, KL_COEF, num_policies=number, margin=2.0)
        found[f"{name}, mixed (margin 2)"] = serve(chosen, asked, fresh, best)
    for name, wanted in others.items():
        members = frontier(bank, [RiskLimit(Mean(), np.inf), *(p.limit for p in wanted)], KL_COEF)
        kept = tuple(member for member in members if member.feasible)
        portfolio = Portfolio(bank, tuple(asked), kept, KL_COEF, "mean", 2.0)
        found[f"{name}, mixed (margin 2)"] = serve(portfolio, asked, fresh, best)
    return found


def _middle(bank: SampleBank) -> list[tuple[float, Profile]]:
    profiles = {p.measure: p for p in profiles_of(bank, (0.5,))}
    return [(a, profiles[CVaR(a)]) for a in (0.05, 0.25, 0.5)]


def _with_margin(portfolio: Portfolio, margin: float) -> Portfolio:
    members = portfolio.members
    return Portfolio(portfolio.bank, portfolio.profiles, members, KL_COEF, "mean", margin)


def serve(
    portfolio: Portfolio,
    asked: Sequence[Profile],
    fresh: SampleBank,
    best: Sequence[Solution],
    *,
    single: bool = False,
) -> Served:
    """Weights are chosen on the portfolio's bank; what they give is measured on fresh prompts."""
    free, *solutions = best
    scale = regret_scale(asked, solutions, free.value)
    mixer = Mixer(fresh, portfolio.log_ratios(fresh), [p.measure for p in asked], KL_COEF)
    regrets, broken, refused = [], [], []
    for number, profile in enumerate(asked):
        if np.isnan(scale.best[number]):
            continue
        chosen = portfolio.assignment(profile, single=single)
        figures = mixer.figures({k: w for k, w in enumerate(chosen.weights) if w > 0})
        met = figures.meets(profile)
        broken.append(chosen.met and not met)
        refused.append(not chosen.met)
        regrets.append(scale.regrets(figures)[number] if chosen.met else 1.0)
    return Served(float(np.mean(regrets)), float(np.mean(broken)), float(np.mean(refused)))
