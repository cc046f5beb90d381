"""What a preference and a prompt are."""

from __future__ import annotations

from dataclasses import dataclass

Prompt = str | list[dict[str, str]]
"""A user's message, or chat messages with ``role`` and ``content``."""


@dataclass(frozen=True)
class Preference:
    """Two answers to a prompt, the better one first.

    For cost, *chosen* is the less harmful answer.

    Attributes:
        prompt: what was asked.
        chosen: the preferred answer.
        rejected: the other one.
        chosen_safe: whether the preferred answer is safe, if somebody said so.
        rejected_safe: the same for the other answer.
        annotator: who preferred, if known.
        category: kind of request or harm, if known.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_safe: bool | None = None
    rejected_safe: bool | None = None
    annotator: str | None = None
    category: str | None = None
