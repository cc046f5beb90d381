"""Annotators: preferences and safety labels drawn from the truth, with honest noise.

A pair is judged by one annotator, who belongs to one of the three groups. Between answers 1 and 2
the first is chosen with the Bradley–Terry chance σ((u₁ − u₂)/temperature), where u is the true
reward for helpfulness, and minus the group's own cost for safety. A safety label is the sign of the
group's cost, flipped with a fixed chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

import numpy as np

from tailguard.errors import InputError
from tailguard.lab.sandbox.answers import Answer
from tailguard.lab.sandbox.behaviour import BASE_BEHAVIOUR, WIDE_BEHAVIOUR, sample_answer
from tailguard.lab.sandbox.requests import RISKY_MIX, Request, sample_requests
from tailguard.lab.sandbox.truth import GROUPS, group_costs, true_harm, true_reward
from tailguard.lab.sandbox.vocabulary import CATEGORIES


class PreferenceRow(TypedDict):
    """One judged pair, in the field names that TRL and `tailguard.data` read."""

    prompt: str
    chosen: str
    rejected: str
    chosen_safe: bool
    rejected_safe: bool
    annotator: str
    category: str


def choice_probability(utility_gap: float, temperature: float = 1.0) -> float:
    """Bradley–Terry: chance to choose the first, σ(gap/temperature), gap = u₁ − u₂."""
    return float(1.0 / (1.0 + np.exp(-np.clip(utility_gap / temperature, -50.0, 50.0))))


def _category(request: Request, answers: tuple[Answer, Answer]) -> str:
    """The category of the greater harm in the pair; `none` where neither harms."""
    harm = sum(true_harm(request, answer) for answer in answers)
    return CATEGORIES[int(np.argmax(harm))] if np.max(harm) > 0 else "none"


def sample_preferences(
    rng: np.random.Generator,
    n: int,
    about: Literal["reward", "cost"],
    split: str = "train",
    *,
    mix: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    label_noise: float = 0.04,
    wide_share: float = 0.8,
) -> list[PreferenceRow]:
    """Draw judged pairs of answers to requests of one pool.

    Args:
        rng: source of randomness.
        n: number of pairs.
        about: `reward` (chosen is the more helpful) or `cost` (chosen is the safer).
        split: pool of requests; requests may repeat.
        mix: kind of request → weight; default `RISKY_MIX`.
        temperature: of the Bradley–Terry choice, > 0, in units of true reward or cost.
        label_noise: chance that a safety label is wrong, in [0, .5].
        wide_share: chance that an answer comes from `WIDE_BEHAVIOUR`, not the base behaviour.

    Returns:
        Rows with `prompt`, `chosen`, `rejected` (str), `chosen_safe`, `rejected_safe` (bool),
        `annotator` (a group of `truth.GROUPS`) and `category` (of the greater harm, or "none").

    Raises:
        InputError: an argument out of its range.
    """
    if not temperature > 0 or not 0 <= label_noise <= 0.5 or not 0 <= wide_share <= 1:
        raise InputError(
            f"temperature={temperature} must be > 0, label_noise={label_noise} in [0, .5], "
            f"wide_share={wide_share} in [0, 1]"
        )
    rows: list[PreferenceRow] = []
    for request in sample_requests(rng, n, split, mix or RISKY_MIX, replace=True):
        wide = rng.random(2) < wide_share
        first, second = (
            sample_answer(rng, request, WIDE_BEHAVIOUR if w else BASE_BEHAVIOUR) for w in wide
        )
        # One group judges the pair, so preferences disagree between groups as people do.
        group = int(rng.integers(len(GROUPS)))
        cost = np.array([group_costs(request, a)[group] for a in (first, second)])
        utility = -cost
        if about == "reward":
            utility = np.array([true_reward(request, a) for a in (first, second)])
        # The labels of both answers err on their own, as those of two annotators would.
        safe = (cost <= 0) ^ (rng.random(2) < label_noise)
        chance = choice_probability(float(utility[0] - utility[1]), temperature)
        chosen = 0 if rng.random() < chance else 1
        texts = (first.text, second.text)
        rows.append(
            {
                "prompt": request.text,
                "chosen": texts[chosen],
                "rejected": texts[1 - chosen],
                "chosen_safe": bool(safe[chosen]),
                "rejected_safe": bool(safe[1 - chosen]),
                "annotator": GROUPS[group],
                "category": _category(request, (first, second)),
            }
        )
    return rows
