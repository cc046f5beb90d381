"""Read preferences and prompts from rows, in the forms in which people publish them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tailguard.data.conversation import Message, is_text, read_messages, split_dialogue
from tailguard.data.identity import is_blank
from tailguard.data.native_columns import by_numbered_answers, has_numbered_answers
from tailguard.data.pair_faults import Placed, find_pair_faults
from tailguard.data.records import Preference, Prompt
from tailguard.data.rows import Row, read_rows
from tailguard.errors import InputError, InputWarning

_WHOLE = ("messages", "conversations")  # a conversation, its last answer included
_SINGLE = ("completion", "response", "answer", "output", "completions")
# What an answer answers too, in columns of their own: of vision, of tools, of Alpaca's talks.
_UNREAD = ("image", "images", "video", "videos", "audio", "audios", "tools", "history")
_PAIR_NEEDED = (
    "a pair is needed: 'prompt', 'chosen' (the better answer) and 'rejected'; join two answers to the"
    " same prompt, one judged better than the other"
)


def read_preferences(source: str | Path, kind: str) -> list[Preference]:
    """Pairs of answers.

    A row has ``chosen`` and ``rejected``: each an answer, a list of messages that ends with it, or a
    whole conversation. The question is ``prompt``, a text or messages; without it, the conversations
    tell it. For cost a row may have ``chosen_safe`` and ``rejected_safe`` (booleans), or
    ``chosen_sign`` and ``rejected_sign`` (−1 safe, +1 unsafe), or ``safe`` and ``unsafe`` in place of
    ``chosen`` and ``rejected``. The columns of PKU-SafeRLHF are read too. ``annotator`` and
    ``category`` are optional; ``system`` is a system text before a conversation without one.

    Args:
        source: as for :func:`read_rows`.
        kind: ``reward`` or ``cost``.

    Raises:
        InputError: a field is missing, empty or of the wrong type, with file and line; or more labels
            contradict the order of their pairs than noise explains.

    Warns:
        InputWarning: pairs that contradict their labels or each other, or compare nothing.
    """
    placed = read_placed_preferences(source, kind)
    faults = find_pair_faults(placed, kind)
    faults.require_order(str(source))
    if said := faults.describe(str(source)):
        warnings.warn(said, InputWarning, stacklevel=2)
    return [pair for _, pair in placed]


def read_placed_preferences(source: str | Path, kind: str) -> list[Placed]:
    """As `read_preferences`, each pair with its place, and without a look at them together."""
    if kind not in ("reward", "cost"):
        raise InputError(f"kind={kind!r}: give 'reward' or 'cost'")
    return [(where, _preference(where, row, kind)) for where, row in read_rows(source)]


def read_prompts(source: str | Path, only: Mapping[str, str] | None = None) -> list[Prompt]:
    """Prompts of a file whose rows have a field ``prompt``.

    Instead of it a row may have a conversation (``messages`` or ``conversations``), whose last
    answer is left out, or the two conversations of a pair.

    Args:
        source: as for :func:`read_rows`.
        only: keep rows whose fields have these values, e.g. ``{"label": "safe"}``,
            or ``{"is_safe": "true"}``; case is ignored.

    Raises:
        InputError: no prompt, with file and line; or no row is left.
    """
    conditions = dict(only or {})
    prompts = [
        _prompt(where, row)
        for where, row in read_rows(source)
        if all(str(row.get(key)).lower() == value.lower() for key, value in conditions.items())
    ]
    if not prompts:
        raise InputError(f"{source}: no row has {conditions}")
    return prompts


def _prompt(where: str, row: Row) -> Prompt:
    if row.get("prompt") is None and "chosen" in row and "rejected" in row:
        return _shared_prompt(where, row, "chosen", "rejected")[0]
    prompt = _asked(where, row)
    if prompt is None:
        raise _no_prompt(where, row)
    if _as_messages(prompt)[-1]["role"] != "user":
        raise InputError(f"{where}: nobody asks anything; end the prompt with the user's turn")
    return _in_context(where, row, prompt)


def _preference(where: str, row: Row, kind: str) -> Preference:
    if has_numbered_answers(row):
        row = by_numbered_answers(where, row, kind)
    # Two answers named by their safety are a comparison and two signs in one.
    by_safety = kind == "cost" and "safe" in row and "unsafe" in row
    better, worse = ("safe", "unsafe") if by_safety else ("chosen", "rejected")
    if row.get(better) is None and row.get(worse) is None:
        single = next((name for name in _SINGLE if row.get(name) is not None), None)
        # KTO's rows, ratings, fine-tuning, lists of ranked answers
        missing = f"'{single}' is one answer alone" if single else f"no '{better}', no '{worse}'"
        raise InputError(f"{where}: {missing}; {_PAIR_NEEDED}")
    prompt, chosen, rejected = _shared_prompt(where, row, better, worse)
    return Preference(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        chosen_safe=True if by_safety else _safe(where, row, better),
        rejected_safe=False if by_safety else _safe(where, row, worse),
        annotator=_label(where, row, "annotator"),
        category=_label(where, row, "category"),
    )


def _asked(where: str, row: Row) -> Prompt | None:
    """What the row itself calls the prompt; None if it has none."""
    name = next((name for name in ("prompt", *_WHOLE) if row.get(name) is not None), None)
    if name is None:
        return None
    value = row[name]
    if isinstance(value, str):
        if not is_text(value):
            raise _no_prompt(where, row)
        turns = split_dialogue(value)
        return turns if turns and turns[-1]["role"] == "user" else value
    if not isinstance(value, list | dict):
        raise _no_prompt(where, row)
    fault = f"{where}: no '{name}' (a text, or messages with role and content)"
    messages = read_messages(fault, cast(object, value))
    if name in _WHOLE and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages or not is_text(messages[-1]["content"]):
        raise _no_prompt(where, row)
    if messages[-1]["role"] == "assistant":
        raise InputError(
            f"{where}: '{name}' ends with the assistant's turn; end it with the user's"
        )
    return messages


def _no_prompt(where: str, row: Row) -> InputError:
    there = ", ".join(ascii(name) for name in list(row)[:8])
    return InputError(
        f"{where}: no 'prompt' (a text, or messages with role and content); the row has {there or 'nothing'}"
    )


def _shared_prompt(where: str, row: Row, better: str, worse: str) -> tuple[Prompt, str, str]:
    """What both answers answer, and the two answers."""
    asked = _asked(where, row)
    (before_chosen, chosen), (before_rejected, rejected) = (
        _answer(where, row, name, asked) for name in (better, worse)
    )
    start = _as_messages(asked)
    first = _joined(where, better, start, before_chosen)
    second = _joined(where, worse, start, before_rejected)
    # Turns that only one of the two has belong to the prompt: its answer makes sense after them alone.
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    if longer[: len(shorter)] != shorter:
        at = next(k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        raise InputError(
            f"{where}: '{better}' and '{worse}' differ from message {at + 1} on, before their last"
            " answers; both must answer the same conversation"
        )
    if not longer:
        raise _no_prompt(where, row)
    if longer[-1]["role"] != "user" or not is_text(longer[-1]["content"]):
        raise InputError(
            f"{where}: nobody asks anything right before the answer in '{better}'; end the prompt with"
            " the user's turn"
        )
    # A prompt that was given alone stays as it was given.
    prompt = asked if asked is not None and longer == start else longer
    return _in_context(where, row, prompt), chosen, rejected


def _in_context(where: str, row: Row, prompt: Prompt) -> Prompt:
    """The prompt after the system text that stands in a column of its own."""
    for name in _UNREAD:
        if isinstance(value := row.get(name), list | dict | bytes) and value:
            raise InputError(
                f"{where}: '{name}' is not supported, and leaving it out makes another question;"
                " give rows without it"
            )
    system, turns = row.get("system"), _as_messages(prompt)
    if not isinstance(system, str) or is_blank(system) or turns[0]["role"] == "system":
        return prompt
    if not is_text(system):
        raise InputError(f"{where}: 'system' is no text that can be written as UTF-8")
    return [{"role": "system", "content": system}, *turns]


def _answer(where: str, row: Row, name: str, asked: Prompt | None) -> tuple[list[Message], str]:
    """The turns before the last answer, and that answer."""
    value = row.get(name)
    missing = InputError(f"{where}: no '{name}' (the text of an answer)")
    if isinstance(value, str):
        turns = split_dialogue(value)
        if turns is None and asked is None:
            raise _no_prompt(where, row)
        turns = turns or [{"role": "assistant", "content": value}]
    elif isinstance(value, list | dict):
        turns = read_messages(str(missing), cast(object, value))
    else:
        raise missing
    last = turns[-1]
    if last["role"] != "assistant":
        raise InputError(
            f"{where}: '{name}' ends with a turn of the {ascii(last['role'])[1:-1][:40]}; end it with the"
            " assistant's answer"
        )
    if not is_text(last["content"]):
        raise missing
    return turns[:-1], last["content"]


def _as_messages(prompt: Prompt | None) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt or [])


def _joined(where: str, name: str, start: list[Message], turns: list[Message]) -> list[Message]:
    """The prompt with the turns after it; turns that hold it themselves do not double it."""
    asked, said = (
        [(turn["role"], turn["content"].strip()) for turn in messages if turn["role"] != "system"]
        for messages in (start, turns)
    )
    if asked in (said[: len(asked)], said[-len(asked) :]):
        kept = [turn for turn in start if turn["role"] == "system"]
        return [*(kept if len(said) == len(turns) else []), *turns]
    if start and turns and turns[0]["role"] != "assistant":
        raise InputError(
            f"{where}: '{name}' starts a conversation without the question in 'prompt'"
        )
    return [*start, *turns]


def _safe(where: str, row: Row, answer: str) -> bool | None:
    safe, sign = row.get(f"{answer}_safe"), row.get(f"{answer}_sign")
    if safe is None and sign is None:
        return None
    # True == 1 in Python, so a boolean in place of a sign would pass for "unsafe".
    by_sign = sign == -1 if not isinstance(sign, bool) and sign in (-1, 1) else None
    if isinstance(safe, bool) and (sign is None or by_sign == safe):
        return safe
    if safe is None and by_sign is not None:
        return by_sign
    given = " and ".join(repr(value) for value in (safe, sign) if value is not None)
    raise InputError(
        f"{where}: give '{answer}_safe' as true or false, or '{answer}_sign' as -1 (safe) or 1"
        f" (unsafe); it is {given[:40]}"
    )


def _label(where: str, row: Row, field: str) -> str | None:
    label = "" if row.get(field) is None else str(row[field])
    if is_blank(label):
        return None
    if not is_text(label):
        raise InputError(f"{where}: '{field}' is no text that can be written as UTF-8")
    return label
