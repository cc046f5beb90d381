"""Small tokenizers of the kinds that models come with, and chat templates of the usual shapes."""

from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}{% set text = m['content'] %}{% if m['role'] == 'assistant' %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCTIONS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}"
    "{{ eos_token }}{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
TEMPLATES = (CHATML, TRIMMING, THINKING, INSTRUCTIONS)

SPECIAL = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "</think>", "<|fim_prefix|>")  # markup that is not special, as Qwen's
MARKERS = (*SPECIAL, *ADDED, "[INST]", "[/INST]")


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3 and Qwen: every text has tokens, and decoding gives it back."""
    merges = [("i", "n"), ("I", "N"), ("S", "T"), ("IN", "ST")]
    core = Tokenizer(models.BPE(_bytes_and(*map("".join, merges)), merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return _finished(core)


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral: a space before the first word, bytes for what is not known."""
    letters = {f"<0x{k:02X}>": k for k in range(256)}
    vocabulary = letters | {c: 256 + k for k, c in enumerate(["▁", *map(chr, range(33, 127))])}
    core = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _finished(core)


def unigram() -> PreTrainedTokenizerFast:
    """As T5 and XLM-R: the special tokens are words of the vocabulary as well."""
    pieces = [(marker, 0.0) for marker in SPECIAL]
    pieces += [("▁", -2.0), *((chr(c), -4.0) for c in range(33, 127))]
    core = Tokenizer(models.Unigram(pieces, unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    return _finished(core)


def folding() -> PreTrainedTokenizerFast:
    """Byte level behind a normaliser, with added tokens that are found in what it makes."""
    core = Tokenizer(models.BPE(_bytes_and(), []))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return _finished(core, normalized=True)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte level": byte_level,
    "sentence piece": sentence_piece,
    "unigram": unigram,
    "folding": folding,
}


def _bytes_and(*merged: str) -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {piece: place for place, piece in enumerate([*alphabet, *merged])}


def _finished(core: Tokenizer, *, normalized: bool = False) -> PreTrainedTokenizerFast:
    core.add_special_tokens(
        [AddedToken(marker, special=True, normalized=normalized) for marker in SPECIAL]
    )
    core.add_tokens([AddedToken(marker, normalized=normalized) for marker in ADDED])
    core.add_tokens([AddedToken("  ", normalized=False), AddedToken("tail", normalized=False)])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
