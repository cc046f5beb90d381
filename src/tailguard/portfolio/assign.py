"""Which member, or mix of two, serves a profile best."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

from tailguard.portfolio.mixing import Figures, Mixer
from tailguard.portfolio.profile import Profile

MixKey = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Assignment:
    """How a profile is served.

    Attributes:
        weights: share of each member, summing to 1.
        value: E r − β·KL of the mix.
        risk: ρ(C) of the mix.
        met: whether the risk is within the budget, margin included.
    """

    weights: tuple[float, ...]
    value: float
    risk: float
    met: bool


@dataclass
class Assigner:
    """Tries members and mixes of two; every policy is evaluated once.

    Attributes:
        mixer: the members on a bank.
        num_members: K.
        shares: weights of the first of two members to try.
        margin: standard errors of the risk that must fit under the budget.
    """

    mixer: Mixer
    num_members: int
    shares: tuple[float, ...]
    margin: float = 0.0
    _known: dict[MixKey, Figures] = field(default_factory=dict[MixKey, Figures])

    def figures(self, key: MixKey) -> Figures:
        """Figures of a mix, evaluated at most once."""
        if key not in self._known:
            self._known[key] = self.mixer.figures(dict(key))
        return self._known[key]

    def single(self, member: int) -> Figures:
        """Figures of one member."""
        return self.figures(((member, 1.0),))

    def pairs(self, one: int, other: int) -> Iterator[tuple[MixKey, Figures]]:
        """Mixes of two members."""
        low, high = sorted((one, other))  # one key per mix, in whichever order it is asked
        for share in self.shares:
            key = ((low, share), (high, 1.0 - share))
            yield key, self.figures(key)

    def assign(self, profile: Profile, *, single: bool = False) -> Assignment:
        """The best option that meets the profile; where none does, the one of least risk.

        Args:
            profile: whose measure the mixer was built with.
            single: consider only members, no mixes.
        """
        options: list[tuple[MixKey, Figures]] = [
            (((k, 1.0),), self.single(k)) for k in range(self.num_members)
        ]
        if not single:
            for one, other in combinations(range(self.num_members), 2):
                options.extend(self.pairs(one, other))
        met = [option for option in options if option[1].meets(profile, self.margin)]
        # Where no option meets the budget, the one that breaks it least is served, and says so.
        if met:
            key, figures = max(met, key=lambda option: option[1].value)
        else:
            key, figures = min(options, key=lambda option: option[1].risk[profile.measure])
        weights = [0.0] * self.num_members
        for member, share in key:
            weights[member] = share
        return Assignment(tuple(weights), figures.value, figures.risk[profile.measure], bool(met))
