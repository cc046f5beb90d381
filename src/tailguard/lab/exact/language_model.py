"""A causal LM and a tokenizer for an exact world: stock Llama weights, a stock word-level tokenizer."""

from typing import Any, cast

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tailguard.lab.exact.world import ExactWorld
from tailguard.models.policy import Policy

_PAD, _END = "<pad>", "<end>"
# Prompt, then response: no tokens for roles, so a chat is its words.
_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
# One hidden coordinate is the same large number for every token and no layer writes to it; through
# it the output matrix pushes the logits of everything but response tokens far below the others.
_CONSTANT, _PUSH = 6.0, -20.0


def exact_tokenizer(world: ExactWorld) -> PreTrainedTokenizerFast:
    """Words of the world as tokens: response tokens first, so that token n is the word "n".

    Padding and the end token follow (no response ever holds the latter), then the prompts.
    """
    words = _words(world)
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=_PAD))
    cast(Any, core).pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=_PAD,
        eos_token=_END,
        padding_side="left",
        model_max_length=world.length + 1,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def exact_policy(
    world: ExactWorld, *, seed: int = 0, width: int = 32, sharpness: float = 1.0
) -> Policy:
    """A random policy for the world: two Llama layers whose weights are drawn from the seed.

    Args:
        world: whose responses it gives.
        seed: of the weights; policies that differ only in it have nothing in common.
        width: hidden size, a multiple of 4.
        sharpness: standard deviation of a token's logits, roughly; 0 is uniform over responses.
    """
    tokenizer = exact_tokenizer(world)
    config = LlamaConfig(
        vocab_size=len(_words(world)),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=world.length + 1,
        tie_word_embeddings=False,
        pad_token_id=world.num_tokens,
        eos_token_id=world.num_tokens + 1,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        _keep_to_responses(model, world.num_tokens, sharpness)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return Policy(cast(Any, model).eval(), tokenizer)


def _words(world: ExactWorld) -> list[str]:
    return [*map(str, range(world.num_tokens)), _PAD, _END, *world.prompts]


def _keep_to_responses(model: Any, num_tokens: int, sharpness: float) -> None:
    embedding, output = model.model.embed_tokens.weight, model.lm_head.weight
    embedding.mul_(embedding.shape[1] ** 0.5)
    embedding[:, 0] = _CONSTANT
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    # The final norm makes hidden states of root mean square 1; the constant takes some of it.
    output.mul_(1.2 * sharpness)
    output[:, 0] = 0.0
    output[num_tokens:] = 0.0
    output[num_tokens:, 0] = _PUSH
