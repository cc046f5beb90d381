"""The decoder's dial: settings with what they serve, and which of them answers a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tailguard.decoding.admission import POPULATION
from tailguard.decoding.outlook import Outlook
from tailguard.decoding.rule import Rule
from tailguard.decoding.worth import SCORERS_WORD, AnswerWorth
from tailguard.errors import InfeasibleError, InputError
from tailguard.portfolio.dial import DialChoice, DialTable
from tailguard.portfolio.rater_tails import WORST, RatersAsked, RatersLimit
from tailguard.risk import RiskLimit
from tailguard.risk.spelling import describe_limit


@dataclass(frozen=True)
class DialEntry:
    """A way to answer.

    Attributes:
        point: weights of the members' updates.
        rule: how many answers are drawn from it, and which is served.
        withheld: share of the calibration prompts that got the fallback.
        penalty: λ′ of the utility r̂ − λ′·E(C − ν′)₊ by which admissible answers are ranked.
        admission: whose bound an answer must keep, see `admission_bound`.
    """

    point: tuple[float, ...]
    rule: Rule
    withheld: float
    penalty: float = 0.0
    admission: str = POPULATION

    def with_max_draws(self, num: int) -> DialEntry:
        """The same with another limit on draws."""
        if num == self.rule.max_draws:
            return self
        return replace(self, rule=replace(self.rule, max_draws=num))


@dataclass(frozen=True)
class DialCertificate:
    """Bounds on the risk of what an entry serves, abstentions included, on held-out prompts.

    Attributes:
        entry: number of the entry.
        limit: measure and budget that it was chosen for.
        scorer_bound: upper confidence bound on the risk of the scorer's own upper bound on cost.
        judge_bound: on the risk of the judge's cost; +inf where there was no judge.
        confidence: of each bound.
        num_prompts: held out.
        raters: whose limit the entry was chosen for: the population's (None), or each rater's.
        scorer_rater_bounds: as `scorer_bound`, on the risk to each rater, by name.
        judge_rater_bounds: as `judge_bound`, likewise.
    """

    entry: int
    limit: RiskLimit
    scorer_bound: float
    judge_bound: float
    confidence: float
    num_prompts: int
    raters: RatersAsked = None
    scorer_rater_bounds: Mapping[str, float] = field(default_factory=lambda: {})
    judge_rater_bounds: Mapping[str, float] = field(default_factory=lambda: {})

    def within(
        self, asked: RatersLimit, by: Literal["scorer", "judge"], known: Sequence[str] = ()
    ) -> bool:
        """Whether the bound shows what is asked of this entry alone; `known` as for `bound`."""
        dominates = self.limit.measure.dominates(asked.limit.measure)
        return dominates and self.bound(asked.raters, by, known) <= asked.limit.budget

    def bound(
        self, raters: RatersAsked, by: Literal["scorer", "judge"], known: Sequence[str] = ()
    ) -> float:
        """On the risk to the population, to one rater, or to each; +inf where nothing was shown.

        That the risk to each rater is within a budget is shown by bounds that each hold with the
        confidence: where one is not, its bound alone would have to fail. Nothing is shown of
        weighted raters: the risk of a mixture may lie above that to each of them.

        Args:
            raters: whose.
            by: whom.
            known: every rater that "each" speaks of.
        """
        if raters is None:
            return self.scorer_bound if by == "scorer" else self.judge_bound
        found = self.scorer_rater_bounds if by == "scorer" else self.judge_rater_bounds
        if raters == WORST:
            # Where one of those that are meant was not bounded, nothing is shown of all.
            return max((found.get(name, math.inf) for name in known), default=math.inf)
        if not isinstance(raters, str):
            named = [name for name, weight in raters.items() if weight]
            if len(named) > 1:
                return math.inf
            raters = named[0]
        return found.get(raters, math.inf)


@dataclass(frozen=True)
class DialAnswer:
    """What a request gets.

    Attributes:
        number: of the entry.
        entry: the entry.
        asked: the limit that was asked for.
        risk: of the entry, as measured in calibration.
        error: its standard error.
        bounded: whether a certificate by the scorer covers the request.
        certified: whether one by a judge does.
        raters: whose risk was asked for.
        rater: where the limit is for each rater, the one whose measured risk is the largest.
    """

    number: int
    entry: DialEntry
    asked: RiskLimit
    risk: float
    error: float
    bounded: bool
    certified: bool
    raters: RatersAsked = None
    rater: str | None = None


@dataclass(frozen=True)
class Dial:
    """Every setting that was calibrated.

    Attributes:
        entries: the settings.
        table: their figures, in the same order.
        default: what a request without a limit asks for.
        token_price: of a request that names none, in units of reward.
        certificates: of some entries, from the strictest to the loosest.
        margin: standard errors by which a measured risk must be below a budget.
        largest_kl: of an entry that is served, in nats.
        measured_by: whose costs the table holds, of the population.
        raters_measured_by: whose costs to raters it holds.
        worth: what an answer is worth by its scores; by default the scorers' own word.
        outlook: what is foreseen of answers under way; None leaves none off.
        floors: limits that every answer keeps, whatever a request asks.
        scored_raters: whom the cost scorer tells apart, in the order of its bounds.
    """

    entries: tuple[DialEntry, ...]
    table: DialTable
    default: RiskLimit
    token_price: float
    certificates: tuple[DialCertificate, ...] = ()
    margin: float = 2.0
    largest_kl: float = math.inf
    measured_by: str = "scorer"
    worth: AnswerWorth = SCORERS_WORD
    outlook: Outlook | None = None
    floors: tuple[RatersLimit, ...] = ()
    scored_raters: tuple[str, ...] = ()
    raters_measured_by: str = "scorer"

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        if len(self.entries) != self.table.num_entries:
            raise InputError(f"entries: {len(self.entries)} for {self.table.num_entries} measured")

    @property
    def raters(self) -> tuple[str, ...]:
        """Whose tails were measured."""
        return () if self.table.tails is None else self.table.tails.raters

    def answer(
        self,
        limit: RiskLimit | None = None,
        token_price: float | None = None,
        *,
        certified: bool = False,
        raters: RatersAsked = None,
    ) -> DialAnswer:
        """The setting for a request.

        The most valuable entry whose measured risk, with the margin, is within the budget; or, if
        that is asked for, the most valuable one that is certified for it. A limit that was certified
        (those that `Decoder.profiles` shows) gets the very entry that was certified for it, unless the
        request has a price of its own.

        Args:
            limit: any measure and budget; the default where None.
            token_price: of one token; the default where None.
            certified: serve nothing that no judge's certificate covers.
            raters: whose risk the limit is on: weights by rater, one rater's name, "worst" for each of
                them, or None for the population. The dial's floors hold whatever is asked.

        Raises:
            InfeasibleError: no entry is measured to be within the budget, or certified for it.
            InputError: as `DialTable.look_up`.
        """
        asked = RatersLimit(self.default if limit is None else limit, raters)
        price = self.token_price if token_price is None else token_price
        if not price >= 0.0:
            raise InputError(f"token_price: {price}; must be ≥ 0")
        found = self.table.look_up(
            asked.limit,
            token_price=price,
            margin=self.margin,
            largest_kl=self.largest_kl,
            raters=raters,
            floors=self.floors,
        )
        keeping = self.table.keeps(self.floors, self.margin)
        bounded, covering = (
            [number for number in self.covered(asked, by) if keeping[number]]
            for by in ("scorer", "judge")
        )
        # With a judge, its word counts; a limit of which nothing was shown is looked up.
        shown = covering if self.measures(raters) == "judge" else bounded
        own = [
            c.entry for c in self._sequence(raters) if c.limit == asked.limit and c.entry in shown
        ]
        own = own if raters in (None, WORST) else []
        if certified:
            self._require_certified(asked, covering)
            number = self._most_valuable(covering, price)
        elif own and token_price is None:
            number = own[0]
        elif not found.feasible and not (limit is None and raters is None and not self.floors):
            raise self._out_of_reach(asked, found)
        else:
            number = found.entry
        risk, error = (part[number] for part in self.table.rater_risks(asked.limit.measure, raters))
        place = int((risk + self.margin * error).argmax())
        return DialAnswer(
            number,
            self.entries[number],
            asked.limit,
            float(risk[place]),
            float(error[place]),
            number in bounded,
            number in covering,
            raters,
            self.raters[place] if len(risk) > 1 else None,
        )

    def measures(self, raters: RatersAsked) -> str:
        """By whose costs a request for them is answered."""
        return self.measured_by if raters is None else self.raters_measured_by

    def _out_of_reach(self, asked: RatersLimit, found: DialChoice) -> InfeasibleError:
        least = found.risk + self.margin * found.error
        whose = "" if found.rater is None else f" to {found.rater}, who would bear the most,"
        if least <= asked.limit.budget:
            floors = ", ".join(describe_raters_limit(floor) for floor in self.floors)
            return InfeasibleError(
                f"no entry of the dial keeps what is set for all: {floors}", least
            )
        return InfeasibleError(
            f"{describe_raters_limit(asked)} is out of the dial's reach: the smallest risk that was"
            f" measured{whose} is {found.risk:.4g} (+{self.margin:g} standard errors: {least:.4g});"
            " raise the budget",
            least,
        )

    def _require_certified(self, asked: RatersLimit, covering: Sequence[int]) -> None:
        if covering:
            return
        fitting = [
            c
            for c in self._sequence(asked.raters)
            if c.limit.measure.dominates(asked.limit.measure)
        ]
        least = min(
            (c.bound(asked.raters, "judge", self.raters) for c in fitting[:1]), default=math.inf
        )
        raise InfeasibleError(
            f"{describe_raters_limit(asked)}: no entry of the dial is certified for it; the strictest that"
            f" was certified is bounded by {least:.4g}: raise the budget, or ask without certified",
            least,
        )

    def _sequence(self, raters: RatersAsked) -> list[DialCertificate]:
        """The certificates that are tried: those of the population, or those of each rater."""
        return [c for c in self.certificates if (c.raters is None) == (raters is None)]

    def covered(self, asked: RatersLimit, by: Literal["scorer", "judge"]) -> list[int]:
        """Entries whose risk is shown to be within what is asked, with the confidence of a bound.

        Fixed-sequence testing (Learn then Test, 2110.01052): the entries are tried from the
        strictest, each at the full confidence, up to the first that is not shown. The first entry
        whose risk is in truth above the budget is passed with probability at most 1 − confidence,
        and without it none after it is reached; so no union bound is paid. That is said of one
        request at a time: over several that differ in their budgets, errors may add up.
        """
        found: list[int] = []
        for certificate in self._sequence(asked.raters):
            if not certificate.within(asked, by, self.raters):
                break
            found.append(certificate.entry)
        return found

    def _most_valuable(self, entries: Sequence[int], price: float) -> int:
        table = self.table
        value = table.reward - table.kl_coef * table.kl - price * table.tokens
        return int(max(entries, key=lambda number: value[number]))


def describe_raters_limit(asked: RatersLimit) -> str:
    """A limit in words, and whose it is."""
    said, raters = describe_limit(asked.limit), asked.raters
    if raters is None:
        return said
    if raters == WORST:
        return f"{said} for each group"
    if isinstance(raters, str):
        return f"{said} for {raters}"
    return f"{said} for " + ", ".join(f"{name} {weight:g}" for name, weight in raters.items())
