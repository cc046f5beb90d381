"""The sandbox's language model: a word-level Llama taught by demonstration.

A chat is `<|user|> {request} <|assistant|> {answer} <|end|>`, one token a word. The model learns the
answers (not the requests) to requests of the `demo` pool, as `BASE_BEHAVIOUR` gives them, so it
inherits that behaviour's rare, severe tail. Its head size is 64, as serving engines want.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tailguard.lab.sandbox.behaviour import BASE_BEHAVIOUR, Behaviour, sample_answer
from tailguard.lab.sandbox.requests import sample_requests
from tailguard.lab.sandbox.vocabulary import all_words

PAD, UNKNOWN, USER, ASSISTANT, END = "<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>"
_SPECIALS = (PAD, UNKNOWN, USER, ASSISTANT, END)
_CONTEXT_TOKENS = 96  # the longest request with the longest answer takes about 40
_IGNORED = -100  # PyTorch's own label for positions that do not count
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|> {{ message['content'] }} <|end|>{{ '' if loop.last else ' ' }}"
    "{% else %}<|user|> {{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Teaching:
    """How the base policy is made; the defaults are how the shipped one was.

    Attributes:
        seed: of the demonstrations, the initial weights and the order.
        num_demonstrations: answered requests, each seen once.
        batch_size: demonstrations per update.
        learning_rate: peak, after a short warm-up and before a cosine decay.
        width: hidden size, a multiple of 64 (one attention head each).
        num_layers: number of layers.
    """

    seed: int = 0
    num_demonstrations: int = 64_000
    batch_size: int = 64
    learning_rate: float = 3e-3
    width: int = 128
    num_layers: int = 4


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer, with its chat template; decoding joins words by single spaces."""
    vocabulary = {word: place for place, word in enumerate((*_SPECIALS, *all_words()))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    cast(Any, core).pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=_CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(teaching: Teaching, vocabulary_size: int) -> LlamaForCausalLM:
    """An untrained model, its weights drawn from the seed."""
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=teaching.width,
        intermediate_size=4 * teaching.width,
        num_hidden_layers=teaching.num_layers,
        num_attention_heads=teaching.width // 64,
        num_key_value_heads=teaching.width // 64,
        head_dim=64,
        max_position_embeddings=_CONTEXT_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=_SPECIALS.index(PAD),
        eos_token_id=_SPECIALS.index(END),
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(teaching.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5 / 2, generator=generator)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def _demonstrations(
    rng: np.random.Generator, n: int, behaviour: Behaviour
) -> list[tuple[str, str]]:
    requests = sample_requests(rng, n, "demo", replace=True)
    return [(request.text, sample_answer(rng, request, behaviour).text) for request in requests]


def _encode(
    pairs: Sequence[tuple[str, str]], vocabulary: dict[str, int]
) -> tuple[Int[np.ndarray, "n length"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Tokens padded on the right, the place of `<|assistant|>`, and the length of each row."""
    heads = [f"{USER} {request} {ASSISTANT}".split() for request, _ in pairs]
    rows = [
        [vocabulary[word] for word in (*head, *answer.split(), END)]
        for head, (_, answer) in zip(heads, pairs, strict=True)
    ]
    lengths = np.array([len(row) for row in rows])
    tokens = np.full((len(rows), int(lengths.max())), vocabulary[PAD])
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row)] = row
    return tokens, np.array([len(head) for head in heads]) - 1, lengths


def _loss(model: LlamaForCausalLM, tokens: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens and their end."""
    place = torch.arange(tokens.shape[1])
    labels = tokens[:, 1:].clone()
    answered = (place[1:] > starts[:, None]) & (place[1:] < lengths[:, None])
    # Requests are not imitated: only answers and their end are learnt.
    labels[~answered] = _IGNORED
    logits = cast(Tensor, model(input_ids=tokens[:, :-1], use_cache=False).logits)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED
    )


def _rate(step: int, num_steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over 50 steps, then cosine to 0."""
    decay = 0.5 * (1 + np.cos(np.pi * min(step / num_steps, 1.0)))
    return float(min((step + 1) / 50, 1.0) * decay)


def teach(
    teaching: Teaching, on_step: Callable[[int, int, float], None] | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make the base policy from its seed.

    Args:
        teaching: sizes and seed; the same ones on the same number of threads give the same weights.
        on_step: called with step, number of steps and loss.

    Returns:
        The model in bfloat16 and its tokenizer.
    """
    tokenizer = build_tokenizer()
    vocabulary = tokenizer.get_vocab()
    model = build_model(teaching, len(vocabulary)).train()
    rng = np.random.default_rng(teaching.seed)
    pairs = _demonstrations(rng, teaching.num_demonstrations, BASE_BEHAVIOUR)
    # Each demonstration is seen once: repeating them would teach the sample, not the law.
    tokens, starts, lengths = (torch.as_tensor(a) for a in _encode(pairs, vocabulary))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=teaching.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    num_steps = len(pairs) // teaching.batch_size
    for step in range(num_steps):
        rows = slice(step * teaching.batch_size, (step + 1) * teaching.batch_size)
        longest = int(lengths[rows].max())  # padding beyond it would be computed for nothing
        loss = _loss(model, tokens[rows, :longest], starts[rows], lengths[rows])
        for group in optimiser.param_groups:
            group["lr"] = teaching.learning_rate * _rate(step, num_steps)
        optimiser.zero_grad()
        cast(Any, loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        cast(Any, optimiser).step()
        if on_step is not None:
            on_step(step + 1, num_steps, float(loss.detach()))
    # Halves the file that the package carries.
    return cast(Any, model.eval()).to(torch.bfloat16), tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` load, weights as safetensors."""
    cast(Any, model).save_pretrained(folder)
    cast(Any, tokenizer).save_pretrained(folder)
