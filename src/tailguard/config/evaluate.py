"""The recipe's section on the evaluation."""

from __future__ import annotations

from pydantic import field_validator

from tailguard.config.section import CountEach, CountOrNone, Section


class EvaluateSection(Section):
    """What the report compares.

    Attributes:
        num_prompts: largest number of evaluation prompts; 0 for all.
        num_examples: example answers shown in the report.
    """

    num_prompts: CountOrNone = 0
    num_examples: CountEach = 8

    @field_validator("num_prompts")
    @classmethod
    def _no_lone_prompt(cls, value: int) -> int:
        if value == 1:  # one prompt has no spread, so no figure would have an interval
            raise ValueError("give at least 2, or 0 for all")
        return value
