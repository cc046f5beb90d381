"""Tiny scorers with a chat template; models so small that every response can be enumerated, and an
independent oracle for them."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tailguard.engines import tested_policy
from tailguard.engines.soup import SoupPolicy
from tailguard.models.policy import Policy

torch.set_num_threads(1)

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


ENUMERATED_WORDS = ("<end>", "a", "b", "c")


def make_tokenizer(words: Sequence[str] = ENUMERATED_WORDS) -> PreTrainedTokenizerFast:
    """Word-level, no chat template; the first word ends a response and pads."""
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[-1]))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=words[0], pad_token=words[0])


def make_llama(
    seed: int, vocab_size: int = len(ENUMERATED_WORDS), scale: float = 3.0
) -> LlamaForCausalLM:
    """A random Llama in double precision whose predictions are far from uniform."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= scale / 4
    return model.double().eval()


@pytest.fixture(scope="session")
def policy() -> Policy:
    return Policy(make_llama(0), make_tokenizer())


@pytest.fixture(scope="session")
def other_policy() -> Policy:
    return Policy(make_llama(1), make_tokenizer())


def exact_law(
    next_log_probs: Callable[[list[int]], torch.Tensor], prompt: list[int], max_new_tokens: int
) -> dict[tuple[int, ...], float]:
    """Probability of every response, by recursion; token 0 ends one."""
    law: dict[tuple[int, ...], float] = {}

    def extend(response: tuple[int, ...], log_prob: float) -> None:
        if len(response) == max_new_tokens or (response and response[-1] == 0):
            law[response] = float(torch.tensor(log_prob, dtype=torch.float64).exp())
            return
        for token, value in enumerate(next_log_probs([*prompt, *response]).tolist()):
            extend((*response, token), log_prob + value)

    extend((), 0.0)
    return law


@torch.no_grad()
def recomputed_log_probs(model: torch.nn.Module, token_ids: list[int]) -> torch.Tensor:
    """Next-token log-probabilities from scratch: one unpadded sequence, no cache."""
    logits = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]
    return logits.double().log_softmax(dim=-1)


@pytest.fixture(scope="session")
def oracle() -> Callable[[torch.nn.Module, list[int]], torch.Tensor]:
    return recomputed_log_probs


def follows(counts: Counter, law: dict[tuple[int, ...], float]) -> None:
    """Chi-square with rare outcomes pooled; impossible outcomes must not occur."""
    total = sum(counts.values())
    assert set(counts) <= set(law)
    common = [key for key, p in law.items() if p * total >= 5]
    observed = [counts[key] for key in common]
    expected = [law[key] * total for key in common]
    if total - sum(expected) > 1e-6:
        observed.append(total - sum(observed))
        expected.append(total - sum(expected))
    assert chisquare(observed, expected, sum_check=False).pvalue > 1e-3


@pytest.fixture(scope="session", name="assert_follows")
def assert_follows_fixture() -> Callable[..., None]:
    return follows


@pytest.fixture(scope="session")
def enumerate_law() -> Callable[..., dict[tuple[int, ...], float]]:
    return exact_law


@pytest.fixture(scope="session")
def build_llama() -> Callable[..., LlamaForCausalLM]:
    return make_llama


@pytest.fixture(scope="session")
def build_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return make_tokenizer


@pytest.fixture
def count_calls() -> Generator[Callable[[Policy], list[tuple[int, ...]]]]:
    """Records the (rows, tokens) of every call of a policy's model from now on."""
    handles = []

    def watch(policy: Policy) -> list[tuple[int, ...]]:
        tested_policy(policy)  # whose own calls do not count
        calls: list[tuple[int, ...]] = []

        def record(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
            calls.append(tuple(kwargs["input_ids"].shape))

        model = cast(Any, policy.model)
        handles.append(model.register_forward_pre_hook(record, with_kwargs=True))
        return calls

    yield watch
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module")
def soup(tiny_scorers, tmp_path_factory):
    """Two updates of one tiny base."""
    from tests.unit.engines.test_soup import save_adapter

    folder = tmp_path_factory.mktemp("soup")
    base = tiny_scorers.save_causal_lm(folder / "base")
    adapters = {
        name: save_adapter(base, folder / name, seed, 2, ["q_proj", "down_proj"])
        for seed, name in enumerate(("loose", "strict"))
    }
    return SoupPolicy.load(base, adapters)
