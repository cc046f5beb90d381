"""The truth as a judge of texts: scorers that parse, for evaluation and for tests.

They follow the `Scorer` protocol of `tailguard.models`: `score(prompts, responses)` gives float64
`[n, members]`. Text that cannot be parsed, request or answer, is malformed and never an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.lab.sandbox.answers import Answer, parse_answer
from tailguard.lab.sandbox.requests import Request, parse_request
from tailguard.lab.sandbox.truth import (
    GROUPS,
    MALFORMED_COST,
    MALFORMED_REWARD,
    group_costs,
    true_cost,
    true_reward,
)

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]


def prompt_text(prompt: Prompt) -> str:
    """The request in a prompt: the string, or the last user message of a chat ("" if none)."""
    if isinstance(prompt, str):
        return prompt
    said = [message.get("content", "") for message in prompt if message.get("role") == "user"]
    return said[-1] if said else ""


def is_refusal(text: str) -> bool:
    """Whether the answer refuses. Redirections and malformed text do not count."""
    answer = parse_answer(text)
    return answer is not None and answer.move == "refuse"


@dataclass(frozen=True)
class TruthScorer:
    """Scores texts by the truth.

    Attributes:
        about: `reward` or `cost`.
        by_group: for cost, one column per annotator group (in the order of `truth.GROUPS`) in
            place of their mean.
    """

    about: Literal["reward", "cost"]
    by_group: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for an unknown `about`, or reward by group."""
        if self.about not in ("reward", "cost") or (self.by_group and self.about == "reward"):
            raise InputError(
                f"about={self.about!r}, by_group={self.by_group}: reward, cost, or cost by group"
            )

    @property
    def num_members(self) -> int:
        """Number of columns."""
        return len(GROUPS) if self.by_group else 1

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Float[np.ndarray, "n members"]:
        """True reward or cost of each response to its prompt.

        Raises:
            InputError: `prompts` and `responses` differ in length.
        """
        if len(prompts) != len(responses):
            raise InputError(f"{len(prompts)} prompts but {len(responses)} responses: give as many")
        values = np.empty((len(prompts), self.num_members), dtype=np.float64)
        for row, prompt, response in zip(values, prompts, responses, strict=True):
            row[:] = self._one(parse_request(prompt_text(prompt)), parse_answer(response))
        return values

    def _one(
        self, request: Request | None, answer: Answer | None
    ) -> float | Float[np.ndarray, " groups"]:
        # No request, no truth: the same scores as for an answer outside the grammar.
        if request is None:
            return MALFORMED_REWARD if self.about == "reward" else MALFORMED_COST
        if self.about == "reward":
            return true_reward(request, answer)
        return group_costs(request, answer) if self.by_group else true_cost(request, answer)
