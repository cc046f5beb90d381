"""Models so small that every response can be enumerated, and an independent oracle for them."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence

import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tailguard.models.policy import Policy

torch.set_num_threads(1)

WORDS = ("<end>", "a", "b", "c")


def make_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Word-level, no chat template; the first word ends a response and pads."""
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[-1]))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=words[0], pad_token=words[0])


def make_llama(seed: int, vocab_size: int = len(WORDS), scale: float = 3.0) -> LlamaForCausalLM:
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
        calls: list[tuple[int, ...]] = []

        def record(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
            calls.append(tuple(kwargs["input_ids"].shape))

        handles.append(policy.model.register_forward_pre_hook(record, with_kwargs=True))
        return calls

    yield watch
    for handle in handles:
        handle.remove()
