"""Conversations as people write them down, and as messages with ``role`` and ``content``."""

from __future__ import annotations

import re
from typing import TypeAlias, cast

from tailguard.data.identity import is_blank
from tailguard.errors import InputError

Message: TypeAlias = dict[str, str]

_SPEAKERS = ("user", "assistant", "system")
# Their other names: in ShareGPT's files, Open Assistant's, OpenAI's and older ones.
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "developer": "system",
}
_TURN = re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant):")


def read_messages(fault: str, value: object) -> list[Message]:
    """The messages of a list, or of a single one.

    A message has ``role`` and ``content``, or ``from`` and ``value`` as in ShareGPT's files; its
    content is a text, or parts that are all text. An assistant's turn may have none.

    Args:
        fault: place and field, the start of the error's message.
        value: a list of messages, or one; or a list for each field, as a ``Sequence`` of messages
            is in `datasets`.

    Raises:
        InputError: it is not messages, or holds what is not text, by name.
    """
    messages = cast("list[object]", value) if isinstance(value, list) else _by_message(value)
    if not messages:
        raise InputError(f"{fault}; there are no messages")
    return [_message(f"{fault}; message {k}", item) for k, item in enumerate(messages, start=1)]


def split_dialogue(text: str) -> list[Message] | None:
    """The turns of a text in HH's form, ``Human: … Assistant: …`` with blank lines between.

    None for a text that is not: it starts otherwise, or nobody answers. An answer that is only
    opened, as at the end of a prompt, is no turn.
    """
    if not text.lstrip().startswith("Human:"):
        return None
    pieces = _TURN.split(text)
    speakers, said = pieces[1::2], pieces[2::2]
    if "Assistant" not in speakers:
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, said, strict=True)
    ]
    return turns if turns[-1]["content"] or turns[-1]["role"] == "user" else turns[:-1]


def is_text(value: object) -> bool:
    """Whether it is a text with something to see in it, and can be written as UTF-8."""
    return isinstance(value, str) and not is_blank(value) and _can_be_written(value)


def _by_message(value: object) -> list[object]:
    """The messages of a list for each field; anything else is one message."""
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    columns = [cast("list[object]", column) for column in fields.values() if type(column) is list]
    if not columns or len(columns) < len(fields) or len({*map(len, columns)}) > 1:
        return [value]
    return [dict(zip(fields, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _message(where: str, value: object) -> Message:
    if not isinstance(value, dict):
        raise InputError(f"{where} has no role and content")
    message = cast("dict[str, object]", value)
    # Rows of both kinds in one table have the fields of the other kind too, without a value.
    by_sharegpt = message.get("from") is not None or "role" not in message
    role, content = ("from", "value") if by_sharegpt and "from" in message else ("role", "content")
    speaker = message.get(role)
    if not isinstance(speaker, str) or not _can_be_written(speaker):
        raise InputError(f"{where} has no '{role}' (user, assistant or system)")
    name = speaker.strip().lower()
    speaker = _ROLES.get(name, name)
    if message.get("tool_calls") or message.get("function_call"):
        raise InputError(f"{where}: tool calls are not supported; give what is said as text")
    # The turns of anybody else would count as nobody's: neither asked nor answered.
    if speaker not in _SPEAKERS:
        raise InputError(
            f"{where}: {role} {ascii(speaker)[:40]} is not supported; give user, assistant or system"
        )
    said = _content(f"{where}: '{content}'", message.get(content), speaker)
    return {"role": speaker, "content": said}


def _content(where: str, value: object, speaker: str) -> str:
    if isinstance(value, list):
        return "".join(_part(where, part) for part in cast("list[object]", value))
    # An assistant's turn may be empty, for example where it was a refusal.
    if value is None and speaker == "assistant":
        return ""
    if not isinstance(value, str) or not _can_be_written(value):
        raise InputError(f"{where} is no text that can be written as UTF-8")
    return value


def _part(where: str, value: object) -> str:
    part = cast("dict[str, object]", value) if isinstance(value, dict) else {"type": "text"}
    text = value if isinstance(value, str) else part.get("text")
    kind = part.get("type") or "text"
    if kind != "text":
        raise InputError(f"{where}: {kind!a} is not supported; give text alone")
    if not isinstance(text, str) or not _can_be_written(text):
        raise InputError(f"{where} has a part without text")
    return text


def _can_be_written(text: str) -> bool:
    try:
        text.encode()  # JSON can spell half of a surrogate pair, which no tokenizer reads
    except UnicodeEncodeError:
        return False
    return True
