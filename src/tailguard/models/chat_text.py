"""Prompts and answers as the text that models read: messages, and the chat template's rendering."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError

from tailguard.data import Prompt
from tailguard.errors import InputError, first_line
from tailguard.models.library import Tokenizer

_COMMON_ROLES = ("system", "user", "assistant")
_FIRST_PLACEHOLDER = 0xF0100  # private use: neither a template nor a vocabulary holds these


def render_prompt(tokenizer: Tokenizer, prompt: Prompt) -> str:
    """The text a policy continues: the chat template with the assistant's turn opened.

    Without a chat template, the plain text of the prompt. What models read is not this text
    tokenized again, but `tailguard.models.chat_tokens.encode_chats`.

    Raises:
        InputError: an empty prompt, a malformed message, or one the template refuses.
    """
    messages = chat_messages(prompt)
    if tokenizer.chat_template is None:
        return plain_text(messages)
    return apply_template(tokenizer, messages, open_turn=True)


def chat_messages(prompt: Prompt, response: str | None = None) -> list[dict[str, str]]:
    """The prompt's messages, and the assistant's where there is a response; copies.

    Raises:
        InputError: an empty prompt or a malformed message. A response may be empty.
    """
    messages = _prompt_messages(prompt)
    if response is not None:
        messages.append({"role": "assistant", "content": response})
    return messages


def _prompt_messages(prompt: Prompt) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError("the prompt is empty: give some text")
        return [{"role": "user", "content": prompt}]
    if len(prompt) == 0:
        raise InputError("the prompt has no messages: give at least one")
    for position, message in enumerate(prompt):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InputError(f"message {position} of the prompt needs 'role' and 'content' strings")
    if not prompt[-1]["content"].strip():
        raise InputError("the last message of the prompt is empty: give some text")
    # Copies: templates may change what they are given.
    return [dict(message) for message in prompt]


def plain_text(messages: Sequence[dict[str, str]]) -> str:
    """Messages without a chat template."""
    return "\n\n".join(message["content"] for message in messages)


def apply_template(tokenizer: Tokenizer, messages: list[dict[str, str]], *, open_turn: bool) -> str:
    """The rendered chat; ``open_turn`` adds what opens the assistant's next turn.

    Raises:
        InputError: the template refuses the chat or fails at it.
    """
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=open_turn
        )
    except Exception as error:  # a template is a program: it may raise anything
        raise InputError(_why_it_failed(tokenizer, messages, error)) from error


def _why_it_failed(
    tokenizer: Tokenizer, messages: Sequence[dict[str, str]], error: Exception
) -> str:
    named = f"the chat template of {template_owner(tokenizer)}"
    # What a template's `raise_exception` makes; every other error is a fault of the template.
    if type(error) is not TemplateError:
        return f"{named} fails: {type(error).__name__}: {first_line(error)}; mend its chat_template"
    hint = ""
    if any(message["role"] == "system" for message in messages):
        hint = "; if it takes no system message, put that text into the first user message"
    return f"{named} refuses the prompt: {first_line(error)}{hint}"


def template_owner(tokenizer: Tokenizer) -> str:
    """What messages call the tokenizer whose template it is."""
    return str(getattr(tokenizer, "name_or_path", "")) or "this tokenizer"


def template_parts(tokenizer: Tokenizer, roles: Sequence[str], *, open_turn: bool) -> list[str]:
    """What the template writes around the contents of messages with these roles.

    Raises:
        InputError: the template refuses these roles, does not know one, or leaves a content out,
            which would answer a prompt that was not asked.
    """
    marks = [chr(_FIRST_PLACEHOLDER + position) for position in range(len(roles))]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    text = apply_template(tokenizer, messages, open_turn=open_turn)
    named = f"the chat template of {template_owner(tokenizer)}"
    for role, mark in zip(roles, marks, strict=True):
        known = role in _COMMON_ROLES or f"{role}" in str(tokenizer.chat_template)
        if not known or not role.isidentifier():
            raise InputError(
                f"{named} does not know the role {role!r}; give system, user or assistant"
            )
        if mark not in text:
            what = "the text of user messages" if role == "user" else f"{role!r} messages"
            hint = (
                "mend its chat_template" if role == "user" else "put the text into a user message"
            )
            raise InputError(f"{named} leaves out {what}; {hint}")
    for mark in marks[1:]:
        text = text.replace(mark, marks[0])
    return text.split(marks[0])
