"""Disjoint splits of prompts, by the hash of the prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np

from tailguard.data.identity import prompt_id
from tailguard.data.records import Preference, Prompt
from tailguard.errors import InputError


@dataclass(frozen=True)
class PromptSplits:
    """Prompts by what they are for; no prompt is in two of the first four.

    Attributes:
        train: to bank and to train on.
        calibrate: to choose acceptance levels on.
        certify: to compute certificates on.
        evaluate: to evaluate on.
        benign: prompts that deserve an answer.
    """

    train: list[Prompt]
    calibrate: list[Prompt]
    certify: list[Prompt]
    evaluate: list[Prompt]
    benign: list[Prompt]

    def names(self) -> list[str]:
        """Names of the splits."""
        return [field.name for field in fields(self)]


def split_prompts(
    prompts: Sequence[Prompt],
    sizes: tuple[int, int, int],
    *,
    reserved: Collection[str],
    generator: np.random.Generator,
) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Draw disjoint train, calibration and certification prompts.

    Args:
        prompts: to draw from; repetitions count once.
        sizes: how many of each.
        reserved: ids of prompts that must not be drawn, e.g. those to evaluate on.
        generator: of the draw.

    Raises:
        InputError: there are too few.
    """
    distinct = {prompt_id(prompt): prompt for prompt in prompts}
    # Sorted by id: the draw must not depend on the order of the files.
    free = [distinct[key] for key in sorted(distinct) if key not in reserved]
    if len(free) < sum(sizes):
        raise InputError(
            f"data: {sum(sizes)} prompts are needed (train {sizes[0]}, calibrate {sizes[1]},"
            f" certify {sizes[2]}) but only {len(free)} distinct ones are available;"
            f" {len(distinct) - len(free)} are set aside because they are in a pair or are evaluated"
            " on: give more data.prompts or lower num_prompts, num_calibration or num_certification"
        )
    order: list[int] = generator.permutation(len(free)).tolist()
    drawn = [free[index] for index in order[: sum(sizes)]]
    first, second = sizes[0], sizes[0] + sizes[1]
    return drawn[:first], drawn[first:second], drawn[second:]


def with_prompts(
    pairs: Sequence[Preference], fraction: float, *, salt: str
) -> tuple[list[Preference], list[Preference]]:
    """Split pairs in two by their prompts' hashes: about ``fraction`` of the prompts, the rest."""

    # By hash and not by a generator: a pair added to a file moves no other pair across the split. The
    # salt keeps two splits of the same pairs independent.
    def draw(pair: Preference) -> float:
        digest = hashlib.sha256((salt + prompt_id(pair.prompt)).encode()).hexdigest()
        return int(digest[:16], 16) / 16.0**16

    first = [pair for pair in pairs if draw(pair) < fraction]
    second = [pair for pair in pairs if draw(pair) >= fraction]
    return first, second
