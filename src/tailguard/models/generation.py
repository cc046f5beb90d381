"""What a checkpoint's generation config may say here: which tokens end an answer, and no more.

The law of a policy is the model's own, which banks, certificates and the trainer's log-probabilities
are about. `generate`, which the trainer samples with, would fill in from this config whatever it is
not told, and so sample from another law.
"""

from __future__ import annotations

from typing import Any

from tailguard.errors import InputError
from tailguard.models.library import LanguageModel
from tailguard.models.tokenizer_check import num_embeddings

_SHAPING = (
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "suppress_tokens"),
    *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "min_length"),
    *(
        "min_new_tokens",
        "exponential_decay_length_penalty",
        "guidance_scale",
        "watermarking_config",
    ),
    *("typical_p", "epsilon_cutoff", "eta_cutoff", "min_p", "num_beams", "penalty_alpha"),
)
_NEUTRAL: tuple[object, ...] = (None, 0, 1, [], {})


def use_plain_law(model: LanguageModel) -> list[str]:
    """Take out what would bend the model's law; one line that names it, if there was any."""
    config: Any = getattr(model, "generation_config", None)
    found = [name for name in _SHAPING if getattr(config, name, None) not in _NEUTRAL]
    for name in found:
        setattr(config, name, None)
    if not found:
        return []
    return [
        f"its generation_config sets {', '.join(found)}, which is not used: answers are drawn from"
        " the model's own law, by the recipe's temperature and top_p alone"
    ]


def check_end_ids(model: LanguageModel) -> None:
    """That the ids that end an answer are ids that the model can write.

    Raises:
        InputError: one is not, so that answers would end at the token limit alone.
    """
    config: Any = getattr(model, "generation_config", None)
    given: Any = getattr(config, "eos_token_id", None)
    size = num_embeddings(model)
    tokens: list[Any] = [*given] if isinstance(given, list | tuple) else [given]
    for token in tokens:
        if token is None:
            continue
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
            raise InputError(
                f"generation_config: eos_token_id {token!r} is no token of the model, which has"
                f" {size}; set the id that ends an answer"
            )
