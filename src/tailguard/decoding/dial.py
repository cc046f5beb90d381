"""The decoder's dial: settings with what they serve, and which of them answers a request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tailguard.decoding.outlook import Outlook
from tailguard.decoding.rule import Rule
from tailguard.decoding.worth import SCORERS_WORD, AnswerWorth
from tailguard.errors import InfeasibleError, InputError
from tailguard.portfolio.dial import DialTable
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
    """

    point: tuple[float, ...]
    rule: Rule
    withheld: float
    penalty: float = 0.0

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
    """

    entry: int
    limit: RiskLimit
    scorer_bound: float
    judge_bound: float
    confidence: float
    num_prompts: int

    def within(self, asked: RiskLimit, by: Literal["scorer", "judge"]) -> bool:
        """Whether the bound shows what is asked of this entry alone."""
        bound = self.scorer_bound if by == "scorer" else self.judge_bound
        return self.limit.measure.dominates(asked.measure) and bound <= asked.budget


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
    """

    number: int
    entry: DialEntry
    asked: RiskLimit
    risk: float
    error: float
    bounded: bool
    certified: bool


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
        measured_by: whose costs the table holds.
        worth: what an answer is worth by its scores; by default the scorers' own word.
        outlook: what is foreseen of answers under way; None leaves none off.
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

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        if len(self.entries) != self.table.num_entries:
            raise InputError(f"entries: {len(self.entries)} for {self.table.num_entries} measured")

    def answer(
        self,
        limit: RiskLimit | None = None,
        token_price: float | None = None,
        *,
        certified: bool = False,
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

        Raises:
            InfeasibleError: no entry is measured to be within the budget, or certified for it.
            InputError: as `DialTable.look_up`.
        """
        asked = self.default if limit is None else limit
        price = self.token_price if token_price is None else token_price
        if not price >= 0.0:
            raise InputError(f"token_price: {price}; must be ≥ 0")
        found = self.table.look_up(
            asked, token_price=price, margin=self.margin, largest_kl=self.largest_kl
        )
        bounded, covering = self.covered(asked, "scorer"), self.covered(asked, "judge")
        # With a judge, its word counts; a limit of which nothing was shown is looked up.
        shown = covering if self.measured_by == "judge" else bounded
        own = [c.entry for c in self.certificates if c.limit == asked and c.entry in shown]
        if certified:
            self._require_certified(asked, covering)
            number = self._most_valuable(covering, price)
        elif own and token_price is None:
            number = own[0]
        elif limit is not None and not found.feasible:
            least = found.risk + self.margin * found.error
            raise InfeasibleError(
                f"{describe_limit(asked)} is out of the dial's reach: the smallest risk that was"
                f" measured is {found.risk:.4g} (+{self.margin:g} standard errors: {least:.4g});"
                " raise the budget",
                least,
            )
        else:
            number = found.entry
        risk, error = self.table.risks(asked.measure)
        return DialAnswer(
            number,
            self.entries[number],
            asked,
            float(risk[number]),
            float(error[number]),
            number in bounded,
            number in covering,
        )

    def _require_certified(self, asked: RiskLimit, covering: Sequence[int]) -> None:
        if covering:
            return
        fitting = [c for c in self.certificates if c.limit.measure.dominates(asked.measure)]
        least = min((c.judge_bound for c in fitting[:1]), default=math.inf)
        raise InfeasibleError(
            f"{describe_limit(asked)}: no entry of the dial is certified for it; the strictest that"
            f" was certified is bounded by {least:.4g}: raise the budget, or ask without certified",
            least,
        )

    def covered(self, asked: RiskLimit, by: Literal["scorer", "judge"]) -> list[int]:
        """Entries whose risk is shown to be within what is asked, with the confidence of a bound.

        Fixed-sequence testing (Learn then Test, 2110.01052): the entries are tried from the
        strictest, each at the full confidence, up to the first that is not shown. The first entry
        whose risk is in truth above the budget is passed with probability at most 1 − confidence,
        and without it none after it is reached; so no union bound is paid. That is said of one
        request at a time: over several that differ in their budgets, errors may add up.
        """
        found: list[int] = []
        for certificate in self.certificates:
            if not certificate.within(asked, by):
                break
            found.append(certificate.entry)
        return found

    def _most_valuable(self, entries: Sequence[int], price: float) -> int:
        table = self.table
        value = table.reward - table.kl_coef * table.kl - price * table.tokens
        return int(max(entries, key=lambda number: value[number]))
