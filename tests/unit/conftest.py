"""Tiny sequence classifiers and a word-level tokenizer with a chat template."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ '<end>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
WORDS = [f"w{i}" for i in range(40)] + ["good", "bad", "help", "harm"]
SPECIAL = ["<pad>", "<unk>", "<user>", "<assistant>", "<end>"]


class TinyScorers:
    """Builders; every weight is drawn from the seed given."""

    words = WORDS

    def tokenizer(self, template=TEMPLATE, pad_token="<pad>"):
        vocab = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
        backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token=pad_token,
            unk_token="<unk>",
            eos_token="<end>",
            model_max_length=32,
        )
        tokenizer.chat_template = template
        return tokenizer

    def classifier(self, seed=0, num_labels=1):
        return _redrawn(LlamaForSequenceClassification(_config(num_labels)), seed)

    def save_classifier(self, folder, seed=0, num_labels=1):
        self.classifier(seed, num_labels).save_pretrained(folder)
        self.tokenizer().save_pretrained(folder)
        return folder

    def causal_lm(self, seed=0):
        return _redrawn(LlamaForCausalLM(_config(2)), seed)

    def save_causal_lm(self, folder, seed=0):
        self.causal_lm(seed).save_pretrained(folder)
        self.tokenizer().save_pretrained(folder)
        return folder


@pytest.fixture(scope="session")
def tiny_scorers():
    return TinyScorers()


def _config(num_labels):
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=4,
    )
    config.num_labels = num_labels
    return config


def _redrawn(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()
