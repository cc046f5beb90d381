"""What a tokenizer must have to go with a model, found out when it is loaded.

Each of these would otherwise show in the middle of a run, or not at all: answers that cannot end,
rows of the embedding that are not there, a template that fails at every prompt or never lets the
assistant speak.
"""

from __future__ import annotations

from typing import Any, cast

from tailguard.errors import InputError
from tailguard.models.chat_text import apply_template, template_owner, template_parts
from tailguard.models.chat_tokens import encode_chat
from tailguard.models.library import LanguageModel, Tokenizer, special_token_id

_NAMED = ("bos", "eos", "pad", "unk", "sep", "cls")


def check_template(tokenizer: Tokenizer) -> None:
    """That the chat template, if there is one, renders a question and its answer.

    Raises:
        InputError: it fails, leaves out the question, or does not open the assistant's turn.
    """
    encode_chat(tokenizer, "x")
    encode_chat(tokenizer, "x", "y")
    if tokenizer.chat_template is None:
        return
    question = [{"role": "user", "content": "x"}]
    before_answer = template_parts(tokenizer, ("user", "assistant"), open_turn=False)[1]
    after_question = template_parts(tokenizer, ("user",), open_turn=False)[1]
    opened = apply_template(tokenizer, question, open_turn=True)
    missing = before_answer.removeprefix(after_question).strip()
    # Some write nothing between a question and its answer; they have nothing to open.
    if missing and opened == apply_template(tokenizer, question, open_turn=False):
        raise InputError(
            f"the chat template of {template_owner(tokenizer)} does not open the assistant's turn:"
            f" answers stand behind {missing!r}, which add_generation_prompt must write"
        )


def check_token_ids(model: LanguageModel, tokenizer: Tokenizer, *, needs_pad: bool = True) -> None:
    """That the model has an embedding for every token that a text can have.

    A single added token beyond them, which only images need, is no fault; a prompt that holds it
    is refused when it is read. Without ``needs_pad``, rows are padded with another token where the
    model does not know the pad token. A model that reads characters has no such table.

    Raises:
        InputError: the tokenizer belongs to a larger model.
    """
    if getattr(model.get_input_embeddings(), "weight", None) is None:
        return
    size = num_embeddings(model)
    names = [name for name in _NAMED if needs_pad or name != "pad"]
    named = {f"{name} token": special_token_id(tokenizer, name) for name in names}
    found = {"vocabulary": int(cast(Any, tokenizer).vocab_size) - 1} | {
        name: token for name, token in named.items() if token is not None
    }
    for name, token in found.items():
        if token >= size:
            raise InputError(
                f"tokenizer: its {name} goes up to id {token}, but the model has {size} embeddings;"
                " give the tokenizer that the model was trained with, or resize the embeddings"
            )


def num_embeddings(model: LanguageModel) -> int:
    """Token ids that the model can read."""
    return int(cast(Any, model.get_input_embeddings()).weight.shape[0])


def ensure_end_token(tokenizer: Tokenizer, stop_token_ids: tuple[int, ...]) -> None:
    """Name an end token, from the ids that end an answer, where the tokenizer names none.

    Trainers look for it in the tokenizer alone.

    Raises:
        InputError: there are none, so that no answer could end.
    """
    if special_token_id(tokenizer, "eos") is not None:
        return
    if not stop_token_ids:
        raise InputError(
            "tokenizer: has no end token, and the model's generation_config names none, so that no"
            " answer could end; set eos_token"
        )
    library: Any = tokenizer
    library.eos_token = library.convert_ids_to_tokens(stop_token_ids[0])
