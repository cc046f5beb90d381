"""A causal LM so small that its law over answers can be written out."""

import itertools

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = ["<end>", "user:", "assistant:", "a", "b", "c", "d", "e"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ '<end> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """Checkpoint of a random two-layer Llama over eight words."""
    folder = tmp_path_factory.mktemp("tiny-base")
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaForCausalLM(config)
    model.lm_head.weight.data.mul_(8.0)  # a law far from uniform
    model.save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="e"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<end>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


class TinyLaw:
    """Every answer of up to `length` tokens, and the probability a model gives it."""

    def __init__(self, length):
        words = range(1, len(WORDS))
        self.answers = [
            (*head, 0) for n in range(length) for head in itertools.product(words, repeat=n)
        ] + list(itertools.product(words, repeat=length))
        self.token_ids = [list(answer) for answer in self.answers]
        self.texts = [" ".join(WORDS[t] for t in answer if t) for answer in self.answers]

    @torch.no_grad()
    def log_probs(self, model, prompt):
        """Log-probabilities [answers], one forward pass per answer: slow and plain."""
        ids = [1, *(WORDS.index(word) for word in prompt.split()), 2]
        out = []
        for answer in self.answers:
            tokens = torch.tensor([[*ids, *answer]])
            logits = model(input_ids=tokens).logits[0, len(ids) - 1 : -1].double()
            chosen = torch.log_softmax(logits, -1)[range(len(answer)), list(answer)]
            out.append(float(chosen.sum()))
        return np.array(out)


@pytest.fixture(scope="session")
def law():
    """Answers of up to two tokens: 8 that end by themselves, 49 cut off."""
    return TinyLaw(2)


@pytest.fixture
def load():
    """The model with an adapter, as peft loads it."""

    def load(base, adapter=None):
        from peft import PeftModel

        from tailguard.models.quiet import without_announcements

        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if adapter is not None:
            with without_announcements():
                model = PeftModel.from_pretrained(model, adapter)
        return model.eval()

    return load
