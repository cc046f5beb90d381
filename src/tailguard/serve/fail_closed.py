"""What the server needs of a decoder, and what it asks one for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

from tailguard.data import Prompt
from tailguard.errors import ScoreError

UNSCORED = "score unavailable"
FALLBACK_TEXT = "I am sorry, but I cannot answer that."


@runtime_checkable
class GuardedAnswer(Protocol):
    """An answer whose risk was judged before it was handed out."""

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``generate --json``."""
        ...


@runtime_checkable
class GuardedDecoder(Protocol):
    """Gives one answer a prompt, each served or withheld by its own rules.

    ``generate`` takes ``measure``, ``budget``, ``max_candidates`` and ``seed`` by name, and may
    take ``token_price``, ``temperature``, ``top_p``, ``max_new_tokens`` and ``stop``; what it does
    not take is refused to those who ask for it. A decoder may have ``profiles``, whose
    ``setting`` says which sampling was calibrated.
    """

    @property
    def generate(self) -> Callable[..., Sequence[GuardedAnswer]]:
        """Called with the prompts and settings by name: one answer a prompt, in order."""
        ...


def accepted_settings(decoder: GuardedDecoder) -> frozenset[str] | None:
    """The settings that ``generate`` takes by name; None where it takes any."""
    parameters = inspect.signature(decoder.generate).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def calibrated_values(decoder: GuardedDecoder, setting: str) -> set[float]:
    """The values of a sampling setting over all calibrated profiles; empty where unknown."""
    profiles: Sequence[Any] = getattr(decoder, "profiles", ())
    found = (getattr(profile.setting, setting, None) for profile in profiles)
    return {float(value) for value in found if value is not None}


def answer_all(
    decoder: GuardedDecoder, prompts: Sequence[Prompt], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The fields of an answer to every prompt, failing closed.

    Where the decoder says that something could not be scored, or hands out an answer without a
    finite cost, the answer is an abstention. Every other error is raised.
    """
    try:
        answers = decoder.generate(prompts, **settings)
        fields = [answer.to_dict() for answer in answers]
    except ScoreError:
        return [_abstention() for _ in prompts]
    if len(fields) != len(prompts):
        raise RuntimeError(f"the decoder gave {len(fields)} answers to {len(prompts)} prompts")
    return [_finite(each) if _is_guarded(each) else _abstention() for each in fields]


def _is_guarded(fields: Mapping[str, Any]) -> bool:
    """Whether the answer is an abstention, or its cost is known."""
    if not isinstance(fields.get("text"), str):
        return False
    if fields.get("abstained") is True:
        return True
    try:
        known = math.isfinite(fields["cost"]["mean"])
    except (KeyError, TypeError):
        return False
    return known and fields.get("abstained") is False


def _abstention() -> dict[str, Any]:
    return {
        "text": FALLBACK_TEXT,
        "abstained": True,
        "reason": UNSCORED,
        "reward": None,
        "cost": None,
        "risk_upper_bound": None,
        "certified": False,
        "num_candidates": 0,
        "num_tokens_generated": 0,
    }


def _finite(value: Any) -> Any:
    """JSON has no infinities: an unknown bound is null."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: _finite(part) for key, part in items}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
