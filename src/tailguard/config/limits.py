"""Limits on risk as a recipe writes them: of policies to train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tailguard.config.section import NonNegative, Number, Positive, Section, Share, TailMass
from tailguard.risk import RiskMeasure
from tailguard.risk.spelling import ANY_COST_BOUND, parse_measure, require_measure

EVERYBODY = "all"
"""The raters of a limit on all of them together, with equal weights."""

UNCONSTRAINED = "none"
"""The measure of a target without a limit."""


class LimitSection(Section):
    """A limit on risk, measure(cost) ≤ budget; the budget is a number or relative to a policy's risk.

    Attributes:
        measure: ``mean``, ``cvar``, ``mean-cvar``, ``entropic``, ``spectral`` or another name in
            `tailguard.risk.spelling`. Parameters are keys of their own, or follow the name as in
            ``spectral:tail_masses=0.05/0.5,weights=0.3/0.7``.
        tail_mass: α of CVaR and mean–CVaR.
        weight: κ of mean–CVaR.
        theta: θ of the entropic measure.
        budget: d, in the units of the cost scorer; or ``reference``: the risk of the policy that the
            limit is planned on, under the same measure (it must not get worse). Give either
            ``budget`` or ``reduction``.
        reduction: places d between that policy's risk (0) and the smallest risk that its bank can
            reach (1).
        scope: ``pooled`` takes the risk over all prompts and answers together; ``per_prompt`` takes
            it for each prompt and averages.
        raters: whose risk, where the cost scorer tells groups apart (``scorers.raters``): weights by
            group, one group's name, ``all`` for all alike, or ``worst`` for a limit on each of them.
            By default the population's.
    """

    measure: str = "cvar"
    tail_mass: TailMass = 0.1
    weight: Share = 0.5
    theta: Positive = 1.0
    budget: Number | Literal["reference"] | None = None
    reduction: Share | None = None
    scope: Literal["pooled", "per_prompt"] = "pooled"
    raters: dict[str, NonNegative] | str | None = None

    def risk_measure(self, cost_bound: float = ANY_COST_BOUND) -> RiskMeasure:
        """The measure, with the recipe's declared largest cost if it needs one.

        Raises:
            InputError: an unknown measure, or a parameter that it lacks or does not have.
        """
        parameters = self.model_dump(include={"tail_mass", "weight", "theta"})
        return parse_measure(self.measure, context=parameters | {"cost_bound": cost_bound})

    @field_validator("measure")
    @classmethod
    def _known(cls, measure: str) -> str:
        name, _, written = measure.partition(":")
        require_measure(name)
        # Parameters behind the name are checked here, so that an error names the key `measure`. The
        # tail mass and the bound are placeholders for keys that this validator cannot see.
        if written:
            parse_measure(measure, context={"tail_mass": 1.0, "cost_bound": ANY_COST_BOUND})
        return measure

    # The check is a plain method, because `Target` and `Guided` override it.
    @model_validator(mode="after")
    def _is_a_limit(self) -> LimitSection:
        self._require_limit()
        return self

    def _require_limit(self) -> None:
        self.risk_measure()
        if self.raters is not None and not self.raters:
            raise ValueError("raters: empty; name groups, or leave it out")
        if isinstance(self.raters, dict) and not any(self.raters.values()):
            raise ValueError("raters: the weights sum to 0; give a group a positive one")
        if self.raters is not None and self.scope != "pooled":
            raise ValueError("raters: with scope pooled only; leave scope out")
        if (self.budget is None) == (self.reduction is None):
            raise ValueError("give exactly one of budget and reduction")


class Floor(LimitSection):
    """A limit that a dial keeps for all: its budget is a number.

    Attributes:
        raters: whose risk: weights by group, one group's name or ``worst`` for each of those whom the
            dial tells apart; by default the population's.
    """

    def _require_limit(self) -> None:
        super()._require_limit()
        if self.raters == EVERYBODY:
            raise ValueError("raters: all; give each group's weight, or worst for each of them")
        if not isinstance(self.budget, int | float) or self.scope != "pooled":
            raise ValueError("floor: give a budget in numbers, and no scope")


class Target(LimitSection):
    """One policy to train: maximise reward subject to measure(cost) ≤ budget.

    Attributes:
        name: name of the policy in tables, and of its folder.
        measure: as for every limit; ``none`` means unconstrained RLHF.
    """

    # The name becomes a folder and a key of tables: no slash, no space, no leading dot.
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=100)]

    @property
    def is_unconstrained(self) -> bool:
        """Whether the target has no limit."""
        return self.measure == UNCONSTRAINED

    @field_validator("measure")
    @classmethod
    def _known(cls, measure: str) -> str:
        return measure if measure == UNCONSTRAINED else super()._known(measure)

    def _require_limit(self) -> None:
        if not self.is_unconstrained:
            super()._require_limit()
        elif self.raters is not None:
            raise ValueError("measure none takes no raters")
        elif self.budget is not None or self.reduction is not None:
            raise ValueError("measure none takes neither budget nor reduction")
