"""A portfolio of planned tilts."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from tailguard.planning import SampleBank, Solution
from tailguard.portfolio.assign import Assignment
from tailguard.portfolio.portfolio import ProfileMapping
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.regret import Objective


@dataclass(frozen=True, eq=False)
class Portfolio:
    """Few tilts and how they serve many profiles.

    Attributes:
        bank: the prompts they were chosen on.
        profiles: what users ask for.
        members: the tilts.
        kl_coef: β.
        objective: how regret over profiles is summed up.
        margin: standard errors of the risk that had to fit under each budget.
    """

    bank: SampleBank
    profiles: tuple[Profile, ...]
    members: tuple[Solution, ...]
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

    def regret(self, bank: SampleBank) -> float:
        """Regret over the profiles on other prompts, in units of the value span there.

        Weights stay as chosen on ``self.bank``; a profile whose budget is then broken has regret 1.
        Profiles that no policy on ``bank`` can meet do not count.
        """
        return self._mapping.regret(bank, self.log_ratios(bank), self.objective)

    def log_ratios(self, bank: SampleBank) -> list[Float64[np.ndarray, "prompts samples"]]:
        """Log π_k/π_ref of each member on a bank, up to a constant a prompt."""
        return [s.shaped_reward(bank.reward, bank.cost) / self.kl_coef for s in self.members]

    @cached_property
    def _mapping(self) -> ProfileMapping:
        ratios = self.log_ratios(self.bank)
        return ProfileMapping(self.bank, ratios, self.profiles, self.kl_coef, self.margin)
