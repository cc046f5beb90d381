"""Prompts and answers as the text that models read."""

from __future__ import annotations

from jinja2 import TemplateError

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.models.library import Tokenizer


def render_prompt(tokenizer: Tokenizer, prompt: Prompt) -> str:
    """The text a policy continues: the chat template with the assistant's turn opened.

    Without a chat template, the plain text of the prompt.

    Raises:
        InputError: an empty prompt, a malformed message, or one the template refuses.
    """
    messages = _messages(prompt)
    if tokenizer.chat_template is None:
        return _plain(messages)
    return _apply_template(tokenizer, messages, add_generation_prompt=True)


def render_chat(tokenizer: Tokenizer, prompt: Prompt, response: str) -> str:
    """The text a scorer reads: the prompt and the assistant's response to it.

    Without a chat template, the prompt with the response directly after it.

    Raises:
        InputError: as in `render_prompt`. The response may be empty.
    """
    messages = _messages(prompt)
    if tokenizer.chat_template is None:
        return _plain(messages) + response
    return _apply_template(
        tokenizer,
        [*messages, {"role": "assistant", "content": response}],
        add_generation_prompt=False,
    )


def _messages(prompt: Prompt) -> list[dict[str, str]]:
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


def _plain(messages: list[dict[str, str]]) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _apply_template(
    tokenizer: Tokenizer,
    messages: list[dict[str, str]],
    *,
    add_generation_prompt: bool,
) -> str:
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    # Some templates refuse system messages, or roles that do not alternate.
    except TemplateError as error:
        raise InputError(f"the chat template refuses the prompt: {error}") from error
