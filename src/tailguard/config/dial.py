"""The recipe's section on the dial: which soups of the trained policies are measured, and how."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from tailguard.config.limits import Floor
from tailguard.config.section import (
    MOST_LISTED,
    CountOrNone,
    NonNegative,
    Number,
    Positive,
    SampleEach,
    Section,
)

Listed = Field(strict=False, min_length=1, max_length=MOST_LISTED)


class DialSection(Section):
    """Which combinations of the trained policies are measured, and which of them a request may get.

    A point of the weight space is the base plus a weighted sum of the policies' LoRA updates.

    Attributes:
        num_draws: answers per calibration prompt at each point; also the most that one answer may
            be chosen from.
        shares: of the stricter of each two policies, where the other has the rest; below 0 and above
            1 they are extrapolated.
        scales: of the whole update; 1 is as trained.
        levels: acceptance levels tried at each point, spread over the costs that are seen there.
        token_prices: what one more token may cost, in units of reward; tried at each level.
        penalties: rewards that a unit of expected excess cost takes off an answer's worth, by which
            admissible answers are ranked; tried at each level.
        token_price: of a request that names none.
        margin: standard errors that are added to a measured risk before it is held against a budget.
        certified_margin: the same for the entries that certificates are made for: a bound from held-out
            answers lies above the risk, so that what barely keeps a budget is not shown to keep it.
        largest_kl: of a point that is served, in nats from the reference policy.
        largest_withheld: share of answers that an entry may withhold; entries beyond it are not offered.
        shift_rate: share of answers to usual requests that may be withheld for being unlike those that
            the cost scorer was fitted on; takes 1/rate calibration prompts, and with fewer none is.
        heads: fit process heads, which foresee from an answer's beginning what it will be worth, so that a further
            answer is left off where going on does not pay; the full scorers judge all that is served.
        judged: let the independent judge, where the run has one, read the draws too: risk is then
            measured by its verdicts, and not by those of the scorer that chose.
        floor: a limit that every answer of the dial keeps, whatever a request asks, in the units that the
            dial is measured in; a request for some people's tail cannot loosen it.
        num_certified: limits that are certified, from the strictest to the loosest, and the default; 0 for none.
    """

    num_draws: SampleEach = 16
    shares: Annotated[tuple[Number, ...], Listed] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    scales: Annotated[tuple[Positive, ...], Listed] = (0.5, 1.0)
    levels: SampleEach = 12
    token_prices: Annotated[tuple[NonNegative, ...], Listed] = (0.0, 0.003, 0.01, 0.03, 0.1, 1.0)
    penalties: Annotated[tuple[NonNegative, ...], Listed] = (0.0, 1.0, 3.0, 8.0)
    token_price: NonNegative = 0.01
    margin: NonNegative = 2.0
    certified_margin: NonNegative = 4.0
    largest_kl: Positive = 10.0
    largest_withheld: Annotated[float, Field(gt=0, le=1)] = 0.2
    shift_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    heads: bool = True
    judged: bool = True
    floor: Floor | None = None
    num_certified: CountOrNone = 5

    @model_validator(mode="after")
    def _certified_within_reach(self) -> DialSection:
        if self.certified_margin < self.margin:
            raise ValueError(
                f"certified_margin: {self.certified_margin:g} is below margin ({self.margin:g}); a"
                " limit would be certified that requests cannot reach: raise it"
            )
        return self

    @field_validator("shares", "scales", "token_prices", "penalties")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("a value is there twice; leave one out")
        return tuple(sorted(values))
