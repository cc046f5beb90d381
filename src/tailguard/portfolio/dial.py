"""The dial: what was measured at points of the weight space, and which point a request gets.

What was trained decides, not what was planned. For each entry (a soup, or a soup with a rule of when
to serve) the table holds the costs of what it served to the same prompts, its reward, its divergence
and its tokens. A limit on any risk measure is answered by

    max  E r − β·KL − price·tokens   over entries with   ρ̂ + m·se(ρ̂) ≤ d  and  KL ≤ cap,

and out of reach by the entry with the smallest ρ̂ + m·se. The standard error is that of E φ_ν(C) at
the minimising ν, over prompts: a risk is estimated from few prompts and the entry that looks best is
the one whose error is most in its favour, so without the margin every second budget is broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from tailguard.errors import InputError
from tailguard.portfolio.rater_tails import RatersAsked, RatersLimit, RaterTails, rater_weights
from tailguard.risk import RiskLimit, RiskMeasure

_FEWEST_IN_TAIL = 10  # prompts: α below 10/n is decided by a handful of them
_KEPT = 64  # measures whose risks are remembered
_CHUNK = 64  # entries whose risk is taken at once
_ROUNDING = 1e-12  # within which an atom's edge is recognised
_HINGES = 48  # thresholds at which entries are compared
_RATER_HINGES = 16  # the same, to each rater


@dataclass(frozen=True)
class DialChoice:
    """The answer to a limit.

    Attributes:
        entry: number of the entry.
        feasible: whether its risk, with the margin, is within the budget, and within every limit that
            is set for all; else it is the entry of the smallest risk with the margin.
        risk: as measured.
        error: its standard error, over prompts.
        value: reward − kl_coef·KL − token_price·tokens.
        rater: where the limit holds for each rater, the one whose risk is the largest.
    """

    entry: int
    feasible: bool
    risk: float
    error: float
    value: float
    rater: str | None = None


@dataclass(frozen=True, eq=False)
class DialTable:
    """Figures of entries on the same prompts.

    Attributes:
        cost: of what was served [entries, prompts, samples].
        reward: mean of each entry.
        kl: from the reference policy, per prompt in nats.
        tokens: generated per answer, discarded draws included.
        kl_coef: β, price of a nat in units of reward.
        tails: laws of cost by rater; None where whoever measured knows none.

    Raises:
        InputError: shapes that do not fit, or a number that is not finite.
    """

    cost: Float[np.ndarray, "entries prompts samples"]
    reward: Float[np.ndarray, " entries"]
    kl: Float[np.ndarray, " entries"]
    tokens: Float[np.ndarray, " entries"]
    kl_coef: float = 0.0
    tails: RaterTails | None = None
    _risks: dict[RiskMeasure, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=lambda: {}, init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if self.cost.ndim != 3 or self.cost.size == 0:
            raise InputError(f"cost: shape {self.cost.shape}; must be [entries, prompts, samples]")
        for name in ("cost", "reward", "kl", "tokens"):
            array = getattr(self, name)
            if name != "cost" and array.shape != self.cost.shape[:1]:
                raise InputError(f"{name}: shape {array.shape}; must be {self.cost.shape[:1]}")
            if not np.isfinite(array).all():
                raise InputError(f"{name}: NaN or infinite; every answer needs a score")
        if self.tails is not None and len(self.tails.mass) != len(self.cost):
            raise InputError(f"tails: of {len(self.tails.mass)} entries; must be {len(self.cost)}")

    @property
    def num_entries(self) -> int:
        """Entries."""
        return self.cost.shape[0]

    @property
    def smallest_tail_mass(self) -> float:
        """The smallest α that is answered: with less, a handful of prompts would decide."""
        return min(1.0, _FEWEST_IN_TAIL / self.cost.shape[1])

    def look_up(
        self,
        limit: RiskLimit,
        *,
        token_price: float = 0.0,
        margin: float = 2.0,
        largest_kl: float = math.inf,
        raters: RatersAsked = None,
        floors: Sequence[RatersLimit] = (),
    ) -> DialChoice:
        """The best entry for a limit on risk.

        Args:
            limit: any measure, and the budget.
            token_price: what a token costs, in units of reward.
            margin: standard errors by which the risk must be below the budget.
            largest_kl: of an entry that may be chosen, in nats.
            raters: whose risk the limit is on; by default the population's.
            floors: limits that every choice keeps, whatever is asked.

        Raises:
            InputError: a tail mass below `smallest_tail_mass`, costs above what the measure was
                declared for, no entry within ``largest_kl``, or raters that the table does not know.
        """
        allowed = np.flatnonzero(self.kl <= largest_kl)
        if allowed.size == 0:
            raise InputError(
                f"largest_kl: {largest_kl:g}; the nearest entry is at {self.kl.min():g}"
            )
        value = self.reward - self.kl_coef * self.kl - token_price * self.tokens
        keeping = allowed[self.keeps(floors, margin)[allowed]]
        # Where none keeps what is set for all, the strictest of those that cannot is named.
        allowed = keeping if keeping.size else allowed
        risk, error = self.rater_risks(limit.measure, raters)
        high, worst = _highest(risk, error, margin)
        meeting = allowed[high[allowed] <= limit.budget]
        feasible = keeping.size > 0 and meeting.size > 0
        entry = int(
            meeting[value[meeting].argmax()] if meeting.size else allowed[high[allowed].argmin()]
        )
        place = entry, int(worst[entry])
        named = self.tails.raters[place[1]] if self.tails and risk.shape[1] > 1 else None
        return DialChoice(
            entry, feasible, float(risk[place]), float(error[place]), float(value[entry]), named
        )

    def keeps(
        self, floors: Sequence[RatersLimit], margin: float = 2.0
    ) -> Bool[np.ndarray, " entries"]:
        """Which entries are measured to keep every one of some limits; errors as `look_up`'s."""
        kept = np.ones(self.num_entries, dtype=bool)
        for floor in floors:
            risks = self.rater_risks(floor.limit.measure, floor.raters)
            kept &= _highest(*risks, margin)[0] <= floor.limit.budget
        return kept

    def rater_risks(
        self, measure: RiskMeasure, raters: RatersAsked
    ) -> tuple[Float[np.ndarray, "entries limits"], Float[np.ndarray, "entries limits"]]:
        """Risk of each entry and its standard error, as the raters that are asked for have it.

        One column for the population or for weighted raters, and one for each rater where the limit
        holds for each.

        Raises:
            InputError: as `look_up`.
        """
        if raters is None:
            risk, error = self.risks(measure)
            return risk[:, None], error[:, None]
        self._require_measurable(measure)
        weights = rater_weights(raters, () if self.tails is None else self.tails.raters)
        assert self.tails is not None  # `rater_weights` refuses raters where none are known
        if weights is None:
            return self.tails.each(measure)
        risk, error = self.tails.mixed(measure, weights)
        return risk[:, None], error[:, None]

    def risks(
        self, measure: RiskMeasure
    ) -> tuple[Float[np.ndarray, " entries"], Float[np.ndarray, " entries"]]:
        """Risk of each entry and its standard error; remembered.

        Raises:
            InputError: as `look_up`.
        """
        self._require_measurable(measure)
        if measure not in self._risks:
            if len(self._risks) >= _KEPT:
                self._risks.pop(next(iter(self._risks)))
            if measure.hinge is not None and self.cost.shape[1] > 1 and self.cost.shape[2] == 1:
                risk, error = self._hinge_risks(*measure.hinge)
            else:
                parts = [
                    self._risks_of(slice(start, start + _CHUNK), measure)
                    for start in range(0, self.num_entries, _CHUNK)
                ]
                risk, error = (np.concatenate(part) for part in zip(*parts, strict=True))
            self._risks[measure] = risk, error
        return self._risks[measure]

    def _require_measurable(self, measure: RiskMeasure) -> None:
        if measure.smallest_tail < self.smallest_tail_mass * (1 - 1e-9):
            raise InputError(
                f"tail_mass: {measure.smallest_tail:g}; on {self.cost.shape[1]} calibration prompts"
                f" no tail below {self.smallest_tail_mass:.2g} is measured"
            )
        measure.require_costs(self.cost)
        if self.tails is not None:
            measure.require_costs(self.tails.knots)

    @cached_property
    def _worst_first(self) -> Float[np.ndarray, "entries costs"]:
        """Each entry's costs in falling order: sorted once, every measure sorts them in no time."""
        return -np.sort(-self.cost.reshape(self.num_entries, -1), axis=1)

    @cached_property
    def _sums(self) -> Float[np.ndarray, "2 entries costs"]:
        """Sums of the worst costs and of their squares, from each entry's mean on; of 0 … n of them."""
        centred = self._worst_first - self._worst_first.mean(axis=1, keepdims=True)
        sums = np.cumsum(np.stack([centred, centred**2]), axis=2)
        return np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=2)

    def _hinge_risks(self, weight: float, tail_mass: float) -> tuple[np.ndarray, np.ndarray]:
        """Those of φ_ν(c) = (1 − κ)c + κ(ν + (c − ν)₊/α), one answer to a prompt, from sums alone.

        With h = (c − ν)₊ above the k worst costs: Σh = S₁ − kν, Σch = S₂ − νS₁ and Σh² = S₂ − 2νS₁ + kν².
        """
        num = int(self.cost.shape[1])
        mean = self._worst_first.mean(axis=1)
        # As `tail.var_rows`: the first atom at which the mass so far exceeds α.
        k = min(int(num * (tail_mass * (1.0 + _ROUNDING) + _ROUNDING)), num - 1)
        nu = self._worst_first[:, k] - mean
        worst, squares = self._sums[:, :, k]
        hinge = (worst - k * nu) / num
        plain, steep = 1.0 - weight, weight / tail_mass
        risk = mean + weight * nu + steep * hinge
        second = (
            plain**2 * self._sums[1, :, num]
            + 2.0 * plain * steep * (squares - nu * worst)
            + steep**2 * (squares - 2.0 * nu * worst + k * nu**2)
        ) / num
        variance = np.maximum(second - (steep * hinge) ** 2, 0.0) * num / (num - 1)
        return risk, np.sqrt(variance / num)

    def _risks_of(self, entries: slice, measure: RiskMeasure) -> tuple[np.ndarray, np.ndarray]:
        """Risk and standard error of some entries."""
        rows = self._worst_first[entries]
        num_prompts, num_samples = int(self.cost.shape[1]), int(self.cost.shape[2])
        mass = np.full(rows.shape, 1.0 / rows.shape[1])
        risk = measure.value_rows(rows, mass)
        if num_prompts < 2:
            return risk, np.full(len(rows), np.inf)
        # [entries, 1], or [entries, 1, K] where thresholds form a vector.
        thresholds = measure.threshold_rows(rows, mass)[:, None]
        # Answers to one prompt are alike: prompts are what was sampled. With one answer each, their
        # order does not matter.
        if num_samples > 1:
            rows = self.cost[entries].reshape(rows.shape)
        penalties = measure.penalty(rows, thresholds)
        means = penalties.reshape(len(rows), num_prompts, num_samples).mean(axis=2)
        return risk, means.std(axis=1, ddof=1) / math.sqrt(num_prompts)

    def useful(self) -> Bool[np.ndarray, " entries"]:
        """Entries that some limit could want.

        Of the others there is one with more reward, fewer tokens and nats, and a smaller E(C − ν)₊
        at every ν at once, which makes every convex risk smaller, and to each rater too.
        """
        flat = self.cost.reshape(self.num_entries, -1)
        grid = np.quantile(flat, np.linspace(0.0, 1.0, _HINGES))
        # The mean goes first, as E(C − ν)₊ far below all costs would.
        hinges = [flat.mean(axis=1), *(np.maximum(flat - nu, 0.0).mean(axis=1) for nu in grid)]
        if self.tails is not None:
            steps = np.linspace(0, len(self.tails.knots) - 1, _RATER_HINGES).astype(int)
            by_rater = self.tails.hinges[:, :, np.unique(steps)]
            hinges += [
                *by_rater.reshape(self.num_entries, -1).T,
                *(self.tails.mass @ self.tails.knots).T,
            ]
        figures = np.stack([-self.reward, self.tokens, self.kl, *hinges], axis=1)
        keep = np.ones(self.num_entries, dtype=bool)
        for entry in range(self.num_entries):
            others = figures[keep]
            no_worse = (others <= figures[entry]).all(axis=1)
            better = (others < figures[entry]).any(axis=1)
            keep[entry] = not bool((no_worse & better).any())
        return keep

    def take(self, entries: np.ndarray) -> DialTable:
        """Some entries, by index or mask."""
        return DialTable(
            self.cost[entries],
            self.reward[entries],
            self.kl[entries],
            self.tokens[entries],
            self.kl_coef,
            None if self.tails is None else self.tails.take(entries),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As arrays, float32 costs; `from_arrays` reads them back."""
        tails: dict[str, np.ndarray] = {}
        if self.tails is not None:
            tails = {"knots": self.tails.knots, "mass": self.tails.mass.astype(np.float32)}
        return tails | {
            "cost": self.cost.astype(np.float32),
            "reward": self.reward,
            "kl": self.kl,
            "tokens": self.tokens,
            "kl_coef": np.array([self.kl_coef]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], raters: Sequence[str] = ()) -> DialTable:
        """What `to_arrays` gave; the names of raters are kept elsewhere.

        Raises:
            InputError: an array is missing, or as the class.
        """
        try:
            names = ("cost", "reward", "kl", "tokens")
            exact = [np.asarray(arrays[name], dtype=np.float64) for name in names]
            tails = None
            if raters:
                knots, mass = (arrays[k].astype(np.float64) for k in ("knots", "mass"))
                mass /= mass.sum(axis=2, keepdims=True)  # as rounded for the disk
                tails = RaterTails(tuple(raters), knots, mass, exact[0].shape[1])
            return cls(*exact, kl_coef=float(arrays["kl_coef"][0]), tails=tails)
        except (KeyError, IndexError) as error:
            raise InputError(f"dial: no array {error}") from None


def _highest(
    risk: np.ndarray, error: np.ndarray, margin: float
) -> tuple[Float[np.ndarray, " entries"], np.ndarray]:
    """The largest of each row's risks with the margin, and its place."""
    # Safe sums: entries whose error is unknown (one prompt) have an infinite one.
    high = risk + margin * error if margin else risk
    return high.max(axis=1), high.argmax(axis=1)
