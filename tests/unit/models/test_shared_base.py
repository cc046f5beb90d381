"""Policies of one base that share its weights, against peft's own and against merged ones."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tailguard.engines import LogitMix, response_log_probs, sample_responses, self_test
from tailguard.models.policy import load_policy
from tailguard.models.quiet import without_announcements
from tailguard.models.shared_base import load_policies

IDS = torch.tensor([[2, 5, 6, 3, 7, 4]])
ROWS = [[4, 5], [6, 7, 3]]
PROMPTS = ["w1 w2 w3", "w4"]


@pytest.fixture(scope="module")
def base(tiny_scorers, tmp_path_factory):
    return tiny_scorers.save_causal_lm(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """The base, a plain adapter, one with a whole layer of its own, and one with scaled columns."""
    kinds = {
        "plain": {"target_modules": ["q_proj", "down_proj"]},
        "layer": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
        "scaled": {"target_modules": ["k_proj", "up_proj"], "use_dora": True},
    }
    folders = {"base": None}
    for seed, (name, options) in enumerate(kinds.items()):
        folders[name] = tmp_path_factory.mktemp(name)
        save_adapter(base, folders[name], seed, **options)
    return folders


def save_adapter(base, folder, seed, **options):
    torch.manual_seed(seed)
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, weights in model.named_parameters():
        if "lora_B" in name or (weights.requires_grad and "lora_" not in name):
            nn.init.normal_(weights, std=0.5)
    with without_announcements():
        model.save_pretrained(folder)


def by_peft(base, folder):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits(model if folder is None else PeftModel.from_pretrained(model, folder))


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def load(base, adapters, *, shared):
    return load_policies(base, adapters, device="cpu", largest_copies=0 if shared else 10**12)


def memory(policies):
    """Weights that all of them hold together, each tensor once."""
    held = {w.data_ptr(): w.nbytes for p in policies.values() for w in p.model.parameters()}
    return sum(held.values())


@pytest.mark.parametrize("shared", [True, False])
def test_each_is_what_peft_and_a_policy_loaded_alone_say(base, adapters, shared):
    policies = load(base, adapters, shared=shared)
    assert list(policies) == list(adapters)
    expected = {name: by_peft(base, folder) for name, folder in adapters.items()}
    distinct = {tuple(one.flatten().tolist()) for one in expected.values()}
    assert len(distinct) == len(adapters)
    # Twice, in another order: a call of one leaves nothing behind for the next.
    for name in [*adapters, *reversed(adapters)]:
        found = logits(policies[name].model)
        torch.testing.assert_close(found, expected[name], atol=1e-4, rtol=1e-4)
        alone = load_policy(base, adapters[name], device="cpu").model
        torch.testing.assert_close(found, logits(alone), atol=1e-4, rtol=1e-4)


def test_the_matrices_of_the_base_are_held_once(base, adapters, caplog):
    names = {name: adapters[name] for name in ("base", "plain", "scaled")}
    size = memory({"base": load_policy(base, device="cpu")})
    with caplog.at_level(logging.WARNING):
        assert memory(load(base, names, shared=False)) == 3 * size
        assert not caplog.records
        policies = load(base, names, shared=True)
    assert "3 policies hold the weights of" in caplog.text
    own = {name: [w for w in p.model.parameters() if w.dim() > 1] for name, p in policies.items()}
    base_matrices = {w.data_ptr() for w in own["base"]}
    for name in ("plain", "scaled"):
        assert base_matrices <= {w.data_ptr() for w in own[name]}
    assert memory(policies) < 2 * size


def test_an_adapter_with_biases_leaves_the_others_as_they_are(tiny_scorers, tmp_path):
    tokenizer = tiny_scorers.tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "base", tmp_path / "biased", 0, target_modules=["c_attn"], bias="all")
    adapters = {"base": None, "biased": tmp_path / "biased"}
    policies = load(tmp_path / "base", adapters, shared=True)
    for name, folder in adapters.items():
        expected = by_peft(tmp_path / "base", folder)
        torch.testing.assert_close(logits(policies[name].model), expected, atol=1e-5, rtol=1e-4)


def test_one_policy_is_merged(base, adapters):
    (policy,) = load(base, {"one": adapters["plain"]}, shared=True).values()
    assert not any("lora_" in name for name, _ in policy.model.named_modules())


def test_the_engine_reads_shared_policies_as_it_reads_merged_ones(base, adapters):
    shared, merged = (load(base, adapters, shared=s) for s in (True, False))
    for name in adapters:
        assert (
            self_test.tested_policy(shared[name]).mode == self_test.tested_policy(merged[name]).mode
        )
        torch.testing.assert_close(
            *(response_log_probs(p[name], PROMPTS, ROWS) for p in (shared, merged))
        )
    mixes = [
        LogitMix([p["plain"], p["base"], p["scaled"]], [0.5, 0.2, 0.3]) for p in (shared, merged)
    ]
    torch.testing.assert_close(*(response_log_probs(mix, PROMPTS, ROWS) for mix in mixes))


def test_threads_that_use_them_at_once_do_not_meet(base, adapters):
    policies = load(base, adapters, shared=True)

    def draw(name):
        generator = torch.Generator().manual_seed(0)
        return sample_responses(
            policies[name], PROMPTS, num_samples=4, max_new_tokens=8, generator=generator
        ).token_rows

    names = [*adapters] * 4
    alone = [draw(name) for name in names]
    assert len({str(rows) for rows in alone}) > 1
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, names)) == alone
