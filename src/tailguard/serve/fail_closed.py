"""What the server needs of a decoder, and what it asks one for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, cast, runtime_checkable

from tailguard.data import Prompt
from tailguard.decoding.chosen import unscored
from tailguard.errors import ScoreError
from tailguard.serve.failures import Json

DEFAULT_FALLBACK = "I am sorry, but I cannot help with that."
"""Served on abstention where no text of the decoder's own is known; recipes have the same."""


@runtime_checkable
class GuardedAnswer(Protocol):
    """An answer whose risk was judged before it was handed out."""

    def to_dict(self) -> Json:
        """The fields of ``generate --json``."""
        ...


@runtime_checkable
class GuardedDecoder(Protocol):
    """Gives one answer per prompt, each served or withheld by its own rules.

    ``generate`` takes ``measure``, ``budget`` and ``seed`` by name, and may take ``token_price``,
    ``max_draws``, ``certified``, ``temperature``, ``top_p``, ``max_new_tokens`` and ``stop``; what it does
    not take is refused to those who ask for it. A decoder may have ``profiles``, whose
    ``setting`` says which sampling was calibrated and which ``fallback`` is served on
    abstention.
    """

    @property
    def generate(self) -> Callable[..., Sequence[GuardedAnswer]]:
        """Called with the prompts and settings by name: one answer per prompt, in order."""
        ...


def accepted_settings(decoder: GuardedDecoder) -> frozenset[str] | None:
    """The settings that ``generate`` takes by name; None where it takes any."""
    parameters = inspect.signature(decoder.generate).parameters.values()
    # **kwargs take any name, so nothing can be refused beforehand.
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def calibrated_values(decoder: GuardedDecoder, setting: str) -> set[float]:
    """The values of a sampling setting over all calibrated profiles; empty where unknown."""
    profiles: Sequence[Any] = getattr(decoder, "profiles", ())
    found = (getattr(profile.setting, setting, None) for profile in profiles)
    return {float(value) for value in found if value is not None}


def answer_all(decoder: GuardedDecoder, prompts: Sequence[Prompt], settings: Json) -> list[Json]:
    """The fields of an answer to every prompt, failing closed.

    Where the decoder says that something could not be scored, or hands out an answer without a
    finite cost, the answer is an abstention. Every other error is raised.
    """
    try:
        answers = decoder.generate(prompts, **settings)
        fields = [answer.to_dict() for answer in answers]
    # Only this: other errors are faults of the server, and get 503 instead of an answer.
    except ScoreError:
        return [_abstention(decoder) for _ in prompts]
    if len(fields) != len(prompts):
        raise RuntimeError(f"the decoder gave {len(fields)} answers to {len(prompts)} prompts")
    return [_finite(each) if _is_guarded(each) else _abstention(decoder) for each in fields]


def _is_guarded(fields: Json) -> bool:
    """Whether the answer is an abstention, or its cost is known."""
    if not isinstance(fields.get("text"), str):
        return False
    if fields.get("abstained") is True:
        return True
    try:
        known = math.isfinite(fields["cost"]["mean"])
    except (KeyError, TypeError):
        return False
    # Anything but a plain False is treated as no verdict.
    return known and fields.get("abstained") is False


def _abstention(decoder: GuardedDecoder) -> Json:
    """The same fields as an abstention of the decoder's own, with the decoder's text."""
    fields = asdict(unscored(_fallback(decoder))) | {"cost_upper_bound": None}
    del fields["unlike"]
    return fields | {"bounded": False, "certified": False, "served": None}


def _fallback(decoder: GuardedDecoder) -> str:
    """The decoder's own fallback; one recipe gives all profiles the same, so any will do."""
    profiles: Sequence[Any] = getattr(decoder, "profiles", ())
    texts = (getattr(profile.setting, "fallback", None) for profile in profiles)
    return next((text for text in texts if isinstance(text, str)), DEFAULT_FALLBACK)


def _finite(value: Any) -> Any:
    """JSON has no infinities: an unknown bound is null."""
    if isinstance(value, Mapping):
        items = cast(Json, value).items()
        return {key: _finite(part) for key, part in items}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
