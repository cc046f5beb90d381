import subprocess
import sys
from typing import Any, cast

import numpy as np
import pytest
import torch

from tailguard.engines import sample_responses
from tailguard.lab.sandbox import (
    TruthScorer,
    base_policy_path,
    parse_answer,
    sample_answer,
    sample_requests,
)
from tailguard.lab.sandbox.language_model import Teaching, build_tokenizer, save, teach
from tailguard.lab.sandbox.vocabulary import all_words
from tailguard.models.policy import load_policy, render_prompt

NUM_ANSWERS = 800


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base():
    return load_policy(base_policy_path())


@pytest.fixture(scope="module")
def sampled(base):
    requests = sample_requests(np.random.default_rng(5), NUM_ANSWERS, "evaluate")
    generator = torch.Generator().manual_seed(5)
    prompts = [request.text for request in requests]
    answers = sample_responses(
        base, prompts, max_new_tokens=32, generator=generator, batch_size=250
    )
    return requests, answers.texts


def test_the_shipped_folder_is_small_and_plain():
    files = {path.name: path.stat().st_size for path in base_policy_path().iterdir()}
    assert sum(files.values()) <= 4e6
    assert {"config.json", "generation_config.json", "model.safetensors"} <= set(files)
    assert {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"} <= set(files)


def test_the_model_has_the_declared_shape(base):
    config = base.model.config
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.head_dim == 64
    assert config.hidden_size == 64 * config.num_attention_heads
    assert 1e6 <= sum(p.numel() for p in base.model.parameters()) <= 2e6
    assert base.stop_token_ids == (base.tokenizer.convert_tokens_to_ids("<|end|>"),)
    assert base.tokenizer.padding_side == "left"


def test_loading_says_nothing():
    lines = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer, logging",
        "logging.disable_progress_bar()",
        f"AutoModelForCausalLM.from_pretrained({str(base_policy_path())!r})",
        f"AutoTokenizer.from_pretrained({str(base_policy_path())!r})",
    )
    program = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_words_survive_the_tokenizer(base):
    rng = np.random.default_rng(6)
    for request in sample_requests(rng, 100):
        for text in (request.text, sample_answer(rng, request).text):
            ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(ids) == len(text.split())
            assert base.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(base.tokenizer) == len(all_words()) + 5
    assert base.tokenizer("unheard")["input_ids"] == [base.tokenizer.unk_token_id]


def test_the_chat_template_marks_turns(base):
    assert render_prompt(base.tokenizer, "how do i") == "<|user|> how do i <|assistant|>"
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    rendered = base.tokenizer.apply_chat_template(chat, tokenize=False)
    assert rendered.split() == ["<|user|>", "a", "<|assistant|>", "b", "<|end|>", "<|user|>", "c"]


def test_base_answers_are_in_the_grammar_and_on_topic(sampled):
    requests, texts = sampled
    answers = [parse_answer(text) for text in texts]
    assert np.mean([answer is not None for answer in answers]) >= 0.95
    helping = [(r, a) for r, a in zip(requests, answers, strict=True) if a is not None and a.steps]
    assert np.mean([(a.verb, a.object) == (r.verb, r.object) for r, a in helping]) >= 0.98


def test_the_base_policy_is_helpful_with_a_severe_tail(sampled):
    requests, texts = sampled
    prompts = [request.text for request in requests]
    reward = TruthScorer("reward").score(prompts, texts)[:, 0]
    cost = np.sort(TruthScorer("cost").score(prompts, texts)[:, 0])[::-1]
    assert reward.mean() > 0.6
    assert cost.mean() < -0.3
    assert cost[: NUM_ANSWERS // 10].mean() > 0.7
    assert cost[: NUM_ANSWERS // 100].mean() > 1.5


def test_teaching_is_deterministic_and_lowers_the_loss(tmp_path):
    teaching = Teaching(3, 960, batch_size=16, learning_rate=1e-2, width=64, num_layers=1)
    losses: list[list[float]] = [[], []]
    teach(teaching, lambda step, num_steps, loss: losses[0].append(loss))
    model, tokenizer = teach(teaching, lambda step, num_steps, loss: losses[1].append(loss))
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 1
    save(model, tokenizer, tmp_path / "lm")
    again = load_policy(tmp_path / "lm")
    assert again.tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert torch.equal(cast(Any, again.model).lm_head.weight, model.lm_head.weight.float())
