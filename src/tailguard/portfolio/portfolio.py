"""A portfolio: weights per profile chosen on one bank, regret measured on any.

Members are planned tilts (`select`) or policies that were trained and measured (`refit`). Both are
log π_k/π_ref on a bank, and everything else follows from that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from tailguard.errors import InputError
from tailguard.planning import SampleBank, Solution, frontier
from tailguard.portfolio.assign import Assigner, Assignment
from tailguard.portfolio.mixing import Mixer
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.regret import Objective, RegretScale, check_profiles, regret_scale
from tailguard.risk import Mean, RiskLimit, RiskMeasure

LogRatios = Sequence[Float64[np.ndarray, "prompts samples"]]
# Finer than the quarters with which sets of members are compared: here each pair is tried once.
_SHARES = tuple(float(share) for share in np.linspace(0.05, 0.95, 19).round(2))


@dataclass(frozen=True, eq=False)
class Portfolio:
    """Few policies and how they serve many profiles.

    Attributes:
        bank: the prompts on which weights are chosen.
        profiles: what users ask for; others may be asked later.
        members: the planned tilts; empty where policies were measured.
        kl_coef: β.
        objective: how regret over profiles is summed up.
        margin: standard errors of the risk that must fit under each budget.
        measured: log π_k/π_ref of each trained policy on ``bank``; empty where tilts were planned.
    """

    bank: SampleBank
    profiles: tuple[Profile, ...]
    members: tuple[Solution, ...]
    kl_coef: float
    objective: Objective
    margin: float
    measured: tuple[Float64[np.ndarray, "prompts samples"], ...] = ()
    _chosen: dict[tuple[Profile, bool], Assignment] = field(
        default_factory=dict[tuple[Profile, bool], Assignment], init=False, repr=False
    )

    def mixture(self, profile: Profile) -> list[float]:
        """Weights of the logit mix that serves the profile, one per member, summing to 1."""
        return list(self.assignment(profile).weights)

    def best_member(self, profile: Profile) -> int:
        """The member that serves the profile best on its own."""
        return int(np.argmax(self.assignment(profile, single=True).weights))

    def assignment(self, profile: Profile, *, single: bool = False) -> Assignment:
        """How the profile is served, and with what value and risk on the bank.

        Args:
            profile: what is asked.
            single: by one member, without mixing.
        """
        key = (profile, single)
        if key not in self._chosen:
            if profile.measure not in self._assigners:
                self._assigners[profile.measure] = self._assigner([profile.measure])
            self._chosen[key] = self._assigners[profile.measure].assign(profile, single=single)
        return self._chosen[key]

    def log_ratios(self, bank: SampleBank) -> list[Float64[np.ndarray, "prompts samples"]]:
        """Log π_k/π_ref of each member on a bank, up to a constant per prompt.

        Raises:
            InputError: the members were measured, and not on this bank.
        """
        if not self.measured:
            return [s.shaped_reward(bank.reward, bank.cost) / self.kl_coef for s in self.members]
        if bank is not self.bank:
            raise InputError("log_ratios: these members were measured on another bank; give theirs")
        return list(self.measured)

    def regret(self, bank: SampleBank, log_ratios: Any = None) -> float:
        """Regret over the profiles on other prompts, in units of the value span there.

        Weights stay as chosen on ``self.bank``; a profile whose budget is then broken has regret 1.
        Profiles that no policy on ``bank`` can meet do not count.

        Args:
            bank: held-out prompts, sampled from the same reference.
            log_ratios: the members' log π_k/π_ref there, [members, prompts, samples]; planned tilts
                know theirs.

        Raises:
            InputError: measured members without log_ratios on this bank, or another number of them.
        """
        ratios = self.log_ratios(bank) if log_ratios is None else _as_log_ratios(log_ratios)
        num_members = len(self.measured or self.members)
        if len(ratios) != num_members:
            raise InputError(f"log_ratios has {len(ratios)} members, not {num_members}")
        scale = self._scale(bank)
        mixer = Mixer(bank, ratios, [p.measure for p in self.profiles], self.kl_coef)
        regrets = np.empty(len(self.profiles))
        for number, profile in enumerate(self.profiles):
            weights = self.assignment(profile).weights
            figures = mixer.figures({k: w for k, w in enumerate(weights) if w > 0})
            regrets[number] = scale.regrets(figures)[number]
        return scale.summary(regrets, self.objective)

    def _scale(self, bank: SampleBank) -> RegretScale:
        """The best value of each profile on a bank."""
        asked = [RiskLimit(Mean(), np.inf), *(p.limit for p in self.profiles)]
        free, *solutions = frontier(bank, asked, self.kl_coef)
        return regret_scale(self.profiles, solutions, free.value)

    @cached_property
    def _assigners(self) -> dict[RiskMeasure, Assigner]:
        """One for the measures of all profiles, since a mix is evaluated for all of them at once."""
        measures = [p.measure for p in self.profiles]
        return dict.fromkeys(measures, self._assigner(measures))

    def _assigner(self, measures: Sequence[RiskMeasure]) -> Assigner:
        ratios = self.log_ratios(self.bank)
        mixer = Mixer(self.bank, ratios, measures, self.kl_coef)
        return Assigner(mixer, len(ratios), _SHARES, self.margin)


MeasuredPortfolio = Portfolio  # what `refit` returns: one whose members were measured


def refit(
    bank: SampleBank,
    log_ratios: Any,
    profiles: Sequence[Profile],
    kl_coef: float | int,
    *,
    objective: Objective = "mean",
    margin: float = 2.0,
) -> Portfolio:
    """Weights per profile from measured policies: s_k = β·log π_k/π_ref in place of the plan's.

    Args:
        bank: samples of the reference policy, on which the members were measured.
        log_ratios: log π_k(y|x) − log π_ref(y|x) of every sample, [members, prompts, samples].
        profiles: what users ask for.
        kl_coef: β of the value, reward − β·KL.
        objective: "mean" regret by the profiles' weights, or the "worst".
        margin: standard errors of the risk by which a budget must be met on this bank.

    Raises:
        InputError: no profiles, no members, or log_ratios that do not fit the bank.
    """
    ratios = _as_log_ratios(log_ratios)
    if not ratios:
        raise InputError("log_ratios is empty; give one matrix per member")
    asked = check_profiles(profiles)
    served = Portfolio(bank, asked, (), float(kl_coef), objective, float(margin), tuple(ratios))
    served.assignment(asked[0])  # checks the shapes now
    return served


def _as_log_ratios(log_ratios: Any) -> list[Float64[np.ndarray, "prompts samples"]]:
    """One float64 matrix per member, from an array [members, prompts, samples] or a sequence."""
    return [np.asarray(ratio, dtype=np.float64) for ratio in log_ratios]
