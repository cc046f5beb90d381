"""From profiles to members: weights chosen on one bank, regret measured on any."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from tailguard.planning import SampleBank, frontier
from tailguard.portfolio.assign import Assigner, Assignment
from tailguard.portfolio.mixing import Mixer
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.regret import Objective, RegretScale, regret_scale
from tailguard.risk import Mean, RiskMeasure
from tailguard.risk.limit import RiskLimit

_SHARES = tuple(float(share) for share in np.linspace(0.05, 0.95, 19).round(2))


class ProfileMapping:
    """Maps profiles to members or mixes of two, on the bank it was built with."""

    def __init__(
        self,
        bank: SampleBank,
        log_ratios: Sequence[Float64[np.ndarray, "prompts samples"]],
        profiles: Sequence[Profile],
        kl_coef: float,
        margin: float,
    ) -> None:
        """Nothing is evaluated yet.

        Args:
            bank: the prompts to choose on.
            log_ratios: log π_k/π_ref of each member on it.
            profiles: what users ask for; others may be asked later.
            kl_coef: β.
            margin: standard errors of the risk that must fit under a budget.
        """
        self._bank, self._log_ratios, self._kl_coef = bank, list(log_ratios), kl_coef
        self.profiles = tuple(profiles)
        self._margin = margin
        self._assigners: dict[RiskMeasure, Assigner] = {}
        self._chosen: dict[tuple[Profile, bool], Assignment] = {}
        shared = self._assigner([p.measure for p in profiles])
        self._assigners |= {p.measure: shared for p in profiles}

    def assignment(self, profile: Profile, *, single: bool = False) -> Assignment:
        """How the profile is served; with ``single``, by one member without mixing."""
        key = (profile, single)
        if key not in self._chosen:
            if profile.measure not in self._assigners:
                self._assigners[profile.measure] = self._assigner([profile.measure])
            self._chosen[key] = self._assigners[profile.measure].assign(profile, single=single)
        return self._chosen[key]

    def regrets(
        self, bank: SampleBank, log_ratios: Sequence[Float64[np.ndarray, "prompts samples"]]
    ) -> tuple[RegretScale, Float64[np.ndarray, "profiles"]]:
        """Regret of every profile on a bank, served with the weights chosen on this one."""
        unconstrained = RiskLimit(Mean(), np.inf)
        free, *solutions = frontier(
            bank, [unconstrained, *(p.limit for p in self.profiles)], self._kl_coef
        )
        scale = regret_scale(self.profiles, solutions, free.value)
        mixer = Mixer(bank, log_ratios, [p.measure for p in self.profiles], self._kl_coef)
        regrets = np.empty(len(self.profiles))
        for number, profile in enumerate(self.profiles):
            weights = self.assignment(profile).weights
            figures = mixer.figures({k: w for k, w in enumerate(weights) if w > 0})
            regrets[number] = scale.regrets(figures)[number]
        return scale, regrets

    def regret(
        self,
        bank: SampleBank,
        log_ratios: Sequence[Float64[np.ndarray, "prompts samples"]],
        objective: Objective,
    ) -> float:
        """Mean or worst regret over the profiles that some policy on ``bank`` can meet."""
        scale, regrets = self.regrets(bank, log_ratios)
        return scale.summary(regrets, objective)

    def _assigner(self, measures: Sequence[RiskMeasure]) -> Assigner:
        mixer = Mixer(self._bank, self._log_ratios, measures, self._kl_coef)
        return Assigner(mixer, len(self._log_ratios), _SHARES, self._margin)


def as_log_ratios(log_ratios: Any) -> list[Float64[np.ndarray, "prompts samples"]]:
    """One float64 matrix a member, from an array [members, prompts, samples] or a sequence."""
    return [np.asarray(ratio, dtype=np.float64) for ratio in log_ratios]
