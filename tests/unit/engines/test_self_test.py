"""Models that are broken on purpose: what the self-test says of each."""

import logging
from typing import Any, cast

import pytest
import torch
from tests.unit.conftest import make_tokenizer
from tests.unit.engines.test_architectures import PROMPTS, WORDS, plainly, tiny_policy
from tests.unit.engines.tiny_models import tiny_model
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from tailguard.engines import (
    EngineMode,
    response_hidden_states,
    sample_responses,
    tested_policy as engine_of,
)
from tailguard.errors import InputError, ScoreError
from tailguard.models.policy import Policy

Llama, GPT2 = cast(Any, LlamaForCausalLM), cast(Any, GPT2LMHeadModel)  # overridden freely
EQUAL_LENGTHS, NO_CACHE = EngineMode(padded=False), EngineMode(cached=False)


class CacheIgnored(Llama):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, **rest):
        return super().forward(input_ids, position_ids=position_ids, **rest)


class CacheVanishes(Llama):
    def forward(self, input_ids=None, use_cache=None, **rest):
        return super().forward(input_ids, use_cache=False)


class MaskIgnored(Llama):
    def forward(self, input_ids=None, attention_mask=None, cache=None, **rest):
        return super().forward(input_ids, cache=cache, **rest)


class PositionsIgnored(GPT2):
    def forward(self, input_ids: Any = None, position_ids=None, cache: Any = None, **rest):
        start = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(start, start + input_ids.shape[1])[None]
        return super().forward(input_ids, position_ids=positions, cache=cache, **rest)


class StateInTheModule(Llama):
    """Keeps its own cache: one for all rows that were ever opened."""

    def forward(self, input_ids: Any = None, cache: Any = None, use_cache=None, **rest):
        if not use_cache:
            return super().forward(input_ids, use_cache=False)
        if cache.get_seq_length() == 0 or input_ids.shape[1] > 1:
            self.kept = None
        output = super().forward(input_ids, cache=getattr(self, "kept", None), use_cache=True)
        self.kept = output.cache
        cache.update(*(torch.zeros(*input_ids.shape, 1, 1).transpose(1, 2) for _ in "kv"), 0)
        return output


class OneRowAtATime(Llama):
    """Every row of a batch gets the first one's predictions."""

    def forward(self, input_ids: Any = None, cache: Any = None, **rest):
        output = super().forward(input_ids, cache=cache, **rest)
        output.logits = output.logits[:1].expand(input_ids.shape[0], -1, -1)
        return output


class SeveralAtOnceForgets(Llama):
    """A cache that several tokens at once cannot be added to."""

    def forward(self, input_ids: Any = None, cache: Any = None, **rest):
        past = cache is not None and cache.get_seq_length() > 0
        if past and input_ids.shape[1] > 1:
            for name in ("attention_mask", "position_ids"):
                rest.pop(name, None)
            return super().forward(input_ids, **{**rest, "use_cache": False})
        return super().forward(input_ids, cache=cache, **rest)


class LooksAhead(Llama):
    """Not causal where rows are filled up, and not cached."""

    def forward(self, input_ids=None, use_cache=None, cache=None, **rest):
        output = super().forward(input_ids, use_cache=False)
        output.logits = output.logits + output.logits[:, -1:]
        return output


class HiddenOffByANorm(Llama):
    """`hidden_states[-1]` is not what the output layer reads."""

    def forward(self, input_ids=None, cache=None, **rest):
        output = super().forward(input_ids, cache=cache, **rest)
        if output.hidden_states is not None:
            output.hidden_states = (*output.hidden_states[:-1], output.hidden_states[-1] * 1.7)
        return output


class NoOutputLayer(Llama):
    def get_output_embeddings(self):
        return None


class Stale(Llama):
    """Raises where it is given a cache."""

    def forward(self, input_ids=None, cache=None, **rest):
        if cache is not None:
            raise KeyError("no such layer\nand more")
        return super().forward(input_ids, **rest)


def broken(kind, name="llama"):
    model: Any = tiny_model(name)
    model.__class__ = kind
    return Policy(model, make_tokenizer(WORDS))


def mode_and_line(policy, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="tailguard"):
        mode = engine_of(policy).mode
        engine_of(policy)  # once for each model: nothing is said again
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("tailguard")]
    assert len(lines) == (mode != EngineMode())
    return mode, "".join(lines)


@pytest.mark.parametrize(
    ("kind", "base", "mode", "said"),
    [
        (CacheIgnored, "llama", NO_CACHE, "one more token"),
        (CacheVanishes, "llama", NO_CACHE, "no cache"),
        (MaskIgnored, "llama", EQUAL_LENGTHS, "unlike lengths"),
        (PositionsIgnored, "gpt2", EQUAL_LENGTHS, "unlike lengths"),
        (StateInTheModule, "llama", NO_CACHE, ""),
        (SeveralAtOnceForgets, "llama", NO_CACHE, "several"),
        (Stale, "llama", NO_CACHE, "KeyError"),
    ],
)
def test_what_is_broken_falls_back_and_is_right(kind, base, mode, said, caplog):
    policy = broken(kind, base)
    found, line = mode_and_line(policy, caplog)
    assert found == mode
    assert said in line
    assert kind.__name__ in line
    assert "\n" not in line
    drawn = sample_responses(policy, PROMPTS, num_samples=2, max_new_tokens=6)
    for i, row in enumerate(drawn.token_rows):
        prompt = policy.tokenizer(PROMPTS[drawn.prompt_index[i]])["input_ids"]
        laws, _ = plainly(policy, [*prompt, *row])
        expected = sum(float(laws[len(prompt) - 1 + t, token]) for t, token in enumerate(row))
        assert float(drawn.log_probs[i]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", [OneRowAtATime, LooksAhead])
def test_what_cannot_be_right_is_refused_by_name(kind):
    with pytest.raises(InputError, match=rf"{kind.__name__}.*off by") as caught:
        sample_responses(broken(kind), PROMPTS, max_new_tokens=2)
    assert "\n" not in str(caught.value)


def test_hidden_states_are_those_that_the_output_layer_reads(caplog):
    policy = broken(HiddenOffByANorm)
    assert mode_and_line(policy, caplog)[0] == EngineMode()
    state = response_hidden_states(policy, ["w1 w2"], [[3, 4]], [[2]])[0][0]
    laws, _ = plainly(policy, [*policy.tokenizer("w1 w2")["input_ids"], 3, 4])
    logits = cast(Any, policy.model).lm_head(state).detach().double()
    torch.testing.assert_close(logits.log_softmax(-1), laws[-1], atol=1e-4, rtol=1e-4)


def test_a_model_that_shows_no_output_layer_is_refused_for_guidance_alone():
    policy = broken(NoOutputLayer)
    assert sample_responses(policy, PROMPTS, max_new_tokens=2).token_ids.shape[0] == 3
    with pytest.raises(InputError, match="NoOutputLayer"):
        response_hidden_states(policy, ["w1"], [[2]], [[1]])


def test_weights_that_are_not_numbers_are_refused():
    policy = tiny_policy("llama")
    cast(Any, policy.model).lm_head.weight.data[1] = float("nan")
    with pytest.raises(ScoreError, match="NaN"):
        engine_of(policy)


def test_a_short_context_is_enough():
    policy = tiny_policy("gpt2", n_positions=7)
    assert engine_of(policy).mode == EngineMode()


@pytest.mark.parametrize("seed", range(5))
def test_sound_models_are_read_in_the_cheapest_way(seed):
    for dtype in (torch.float32, torch.bfloat16):
        for name in ("gpt2", "llama", "mistral", "qwen3_moe"):
            assert engine_of(tiny_policy(name, seed=seed, dtype=dtype)).mode == EngineMode()


def test_a_window_that_is_too_dear_to_try_is_told(monkeypatch, caplog):
    def lines(name, **options):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="tailguard"):
            engine_of(tiny_policy(name, **options))
        return [r.getMessage() for r in caplog.records if r.name.startswith("tailguard")]

    assert lines("mistral") == []
    monkeypatch.setattr("tailguard.engines.probe._AFFORDABLE_ON_CPU", 1.0)
    (told,) = lines("mistral")
    assert "not tried" in told
    assert "window of 6 tokens" in told
    assert lines("mistral", sliding_window=64) == []  # no row is longer than the context
    assert lines("llama") == []


class NoLogits(Llama):
    def forward(self, *args, **options):
        return self.model(*args, **options)


class Raises(Llama):
    def forward(self, *args, **options):
        raise ValueError("give decoder_input_ids\nand more")


@pytest.mark.parametrize("kind", [NoLogits, Raises])
def test_what_is_no_causal_lm_is_refused_by_name(kind):
    with pytest.raises(InputError, match=rf"{kind.__name__}.*plain forward pass fails") as caught:
        engine_of(broken(kind))
    assert "\n" not in str(caught.value)


def test_the_models_training_mode_is_restored():
    policy = tiny_policy("gpt2")
    policy.model.train()
    engine_of(policy)
    assert policy.model.training


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TAILGUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "self_test"


def num_calls(policy):
    calls = []
    model = cast(Any, policy.model)
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    engine_of(policy)
    hook.remove()
    return len(calls)


def test_another_process_need_not_test_again(cache, caplog):
    for name in ("llama", "recurrent_gemma"):
        first = mode_and_line(tiny_policy(name), caplog)
        again = tiny_policy(name)  # another object, as in another process
        assert num_calls(again) == 0
        caplog.clear()
        assert mode_and_line(tiny_policy(name), caplog) == first  # the line is said again
    assert len(list(cache.iterdir())) == 2


def test_other_weights_configs_and_types_are_tested(cache):
    assert num_calls(tiny_policy("llama")) > 0
    changed = tiny_policy("llama")
    with torch.no_grad():
        cast(Any, changed.model).model.layers[1].mlp.up_proj.weight.mul_(1.01)
    for policy in (
        changed,
        tiny_policy("llama", seed=1),
        tiny_policy("llama", dtype=torch.bfloat16),
        tiny_policy("llama", rms_norm_eps=1e-4),
        Policy(tiny_policy("llama").model, make_tokenizer(WORDS[:30])),
    ):
        assert num_calls(policy) > 0


def test_models_of_other_origin_are_tested_in_each_process(cache):
    for _ in range(2):
        assert num_calls(broken(MaskIgnored)) > 0
    wrapped = tiny_policy("llama")
    cast(Any, wrapped.model).forward = cast(Any, wrapped.model).forward
    assert num_calls(wrapped) > 0
    assert not cache.exists()


def test_a_spoilt_or_closed_cache_does_no_harm(cache, monkeypatch):
    engine_of(tiny_policy("llama"))
    for file in cache.iterdir():
        file.write_text("{")
    assert num_calls(tiny_policy("llama")) > 0
    (cache.parent / "file").write_text("")
    monkeypatch.setenv("TAILGUARD_CACHE", str(cache.parent / "file"))
    assert num_calls(tiny_policy("llama")) > 0


def test_a_refusal_is_found_anew(cache):
    for _ in range(2):
        with pytest.raises(InputError, match="xLSTMForCausalLM"):
            engine_of(tiny_policy("xlstm", dtype=torch.bfloat16))
