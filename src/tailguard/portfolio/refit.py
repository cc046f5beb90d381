"""Mapping profiles by what was trained, not by what was planned."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from tailguard.errors import InputError
from tailguard.planning import SampleBank
from tailguard.portfolio.assign import Assignment
from tailguard.portfolio.portfolio import ProfileMapping, as_log_ratios
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.regret import Objective, check_profiles


@dataclass(frozen=True, eq=False)
class MeasuredPortfolio:
    """Trained members and how they serve profiles, as far as the bank can tell.

    Attributes:
        bank: the prompts the weights are chosen on.
        log_ratios: log π_k/π_ref of each member on the bank's samples.
        profiles: what users ask for.
        kl_coef: β.
        objective: how regret over profiles is summed up.
        margin: standard errors of the risk that must fit under each budget.
    """

    bank: SampleBank
    log_ratios: tuple[Float64[np.ndarray, "prompts samples"], ...]
    profiles: tuple[Profile, ...]
    kl_coef: float
    objective: Objective
    margin: float

    def mixture(self, profile: Profile) -> list[float]:
        """Weights of the logit mix that serves the profile, one a member, summing to 1."""
        return list(self.assignment(profile).weights)

    def best_member(self, profile: Profile) -> int:
        """The member that serves the profile best on its own."""
        return int(np.argmax(self._mapping.assignment(profile, single=True).weights))

    def assignment(self, profile: Profile) -> Assignment:
        """How the profile is served, and with what value and risk on the bank."""
        return self._mapping.assignment(profile)

    def regret(self, bank: SampleBank, log_ratios: Any) -> float:
        """Regret over the profiles on other prompts, in units of the value span there.

        Args:
            bank: held-out prompts, sampled from the same reference.
            log_ratios: the members' log π_k/π_ref there, [members, prompts, samples].
        """
        ratios = as_log_ratios(log_ratios)
        if len(ratios) != len(self.log_ratios):
            raise InputError(f"log_ratios has {len(ratios)} members, not {len(self.log_ratios)}")
        return self._mapping.regret(bank, ratios, self.objective)

    @cached_property
    def _mapping(self) -> ProfileMapping:
        return ProfileMapping(self.bank, self.log_ratios, self.profiles, self.kl_coef, self.margin)


def refit(
    bank: SampleBank,
    log_ratios: Any,
    profiles: Sequence[Profile],
    kl_coef: float | int,
    *,
    objective: Objective = "mean",
    margin: float = 1.0,
) -> MeasuredPortfolio:
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
    ratios = as_log_ratios(log_ratios)
    if not ratios:
        raise InputError("log_ratios is empty; give one matrix a member")
    asked = check_profiles(profiles)
    measured = MeasuredPortfolio(
        bank, tuple(ratios), asked, float(kl_coef), objective, float(margin)
    )
    measured.assignment(asked[0])  # checks the shapes now
    return measured
