"""Distilling a tilted bank: the law it reaches, what it writes, what it refuses."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tailguard.errors import InputError
from tailguard.training.distillation import DistillationSettings, distil, resample
from tailguard.training.weighted_likelihood import (
    order_by_length,
)

PROMPTS = ["a b", "c", "d e a", "b b"]


def tilted(law, model, kl_coef=0.5):
    """Base law and exact tilt by a reward that likes 'a' and hates 'd', both [prompts, answers]."""
    base = np.stack([law.log_probs(model, prompt) for prompt in PROMPTS])
    shaped = np.array([t.split().count("a") - 3.0 * t.split().count("d") for t in law.texts])
    target = np.exp(base + shaped / kl_coef)
    return base, target / target.sum(axis=1, keepdims=True)


def kl_to(target, log_probs):
    return float((target * (np.log(target) - log_probs)).sum(axis=1).mean())


def test_distilled_policy_approaches_the_tilt(tiny_base, law, load, tmp_path):
    base, target = tilted(law, load(tiny_base))
    assert np.allclose(np.exp(base).sum(axis=1), 1)  # the enumeration is complete
    out = distil(
        tiny_base,
        PROMPTS,
        [law.token_ids] * len(PROMPTS),
        target,
        tmp_path / "adapter",
        settings=DistillationSettings(
            draws_per_prompt=1024, num_passes=30, batch_size=64, learning_rate=3e-3
        ),
    )
    model = load(tiny_base, out.path)
    reached = np.stack([law.log_probs(model, prompt) for prompt in PROMPTS])
    before, after = kl_to(target, base), kl_to(target, reached)
    assert before > 0.5
    assert after < 0.05 * before
    assert out.curve[-1]["loss"] < out.curve[0]["loss"]


def small(tiny_base, law, out, **changes):
    arguments: dict[str, Any] = {
        "prompts": PROMPTS[:2],
        "token_ids": [law.token_ids[10:14], law.token_ids[20:24]],
        "weights": np.full((2, 4), 0.25),
        "settings": DistillationSettings(batch_size=4, rank=2),
    }
    return distil(tiny_base, out=out, **(arguments | changes))


def test_same_seed_same_bytes_and_plain_lora(tiny_base, law, load, tmp_path):
    state = torch.get_rng_state()
    steps = []
    first = small(tiny_base, law, tmp_path / "1", on_progress=lambda *step: steps.append(step))
    second = small(tiny_base, law, tmp_path / "2")
    assert torch.equal(state, torch.get_rng_state())
    assert steps == [(1, 2), (2, 2)]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert sorted(p.name for p in first.path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((first.path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["modules_to_save"] is None
    assert config["target_modules"] == sorted(config["target_modules"])
    assert all(".lora_" in name for name in load_file(first.path / "adapter_model.safetensors"))
    other = DistillationSettings(batch_size=4, rank=2, seed=1)
    third = small(tiny_base, law, tmp_path / "3", settings=other)
    file = "adapter_model.safetensors"
    assert (third.path / file).read_bytes() != (first.path / file).read_bytes()


def test_the_tokens_that_were_drawn_are_taught(tiny_base, load, tmp_path):
    """Neither another ending nor another reading of the text."""
    # 40 of 49 ended in a stop token (7) that is not the tokenizer's, 8 in the tokenizer's own (0).
    # One holds that token in its middle, which decoding skips, and was cut off: nothing follows.
    drawn = [[[3, 4, 7]] * 40 + [[5, 0]] * 8 + [[6, 0, 6]]]
    out = distil(
        tiny_base,
        ["a b"],
        drawn,
        np.full((1, 49), 1 / 49),
        tmp_path / "out",
        settings=DistillationSettings(draws_per_prompt=49, num_passes=60, learning_rate=1e-2),
    )
    model = load(tiny_base, out.path)

    def law_after(*answer):
        with torch.no_grad():
            return model(torch.tensor([[1, 3, 4, 2, *answer]])).logits[0, -1].softmax(-1)

    assert law_after()[[3, 5, 6]] == pytest.approx([40 / 49, 8 / 49, 1 / 49], abs=0.02)
    assert law_after(3, 4)[7] > 0.9
    assert law_after(3, 4)[0] < 0.02
    assert law_after(5)[0] > 0.95
    assert law_after(6)[0] > 0.8
    assert law_after(6, 0)[6] > 0.8


def test_parts_of_a_batch_give_its_gradient(tiny_base, law, tmp_path):
    """Also where they do not divide it; the steps are the same as those with the whole batch."""
    trained = []
    for micro_batch in (8, 3, 1):
        settings = DistillationSettings(batch_size=8, rank=2, micro_batch=micro_batch)
        out = small(tiny_base, law, tmp_path / str(micro_batch), settings=settings)
        trained.append((load_file(out.path / "adapter_model.safetensors"), out.curve))
    (whole, curve), *others = trained
    assert curve
    for weights, losses in others:
        assert losses == [pytest.approx(row, rel=1e-5) for row in curve]
        for name, weight in whole.items():
            # Adam turns a gradient into a step of its sign, so rounding shows where it is tiny.
            assert weights[name] == pytest.approx(weight, abs=1e-4)


def test_resampling_is_unbiased_and_rounds():
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.full(6, 0.5), size=3)
    counts = np.stack([resample(weights, 5, generator) for _ in range(4000)])
    assert (counts.sum(axis=2) == 5).all()
    assert (np.abs(counts - 5 * weights) < 1).all()
    assert counts.mean(axis=0) == pytest.approx(5 * weights, abs=0.04)


def test_order_is_a_permutation_with_like_lengths_together():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 100, 103)
    order = order_by_length(lengths, 10, generator)
    assert sorted(order) == list(range(103))
    spread = np.ptp(lengths[order[:100]].reshape(-1, 10), axis=1)
    assert spread.max() < 40
    first = lengths[order[:100]].reshape(-1, 10).mean(axis=1)
    assert (np.diff(first) < 0).any()
    assert (np.diff(first) > 0).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.full((2, 4), 0.3)}, r"weights\[0\] sums to 1\.2"),
        ({"weights": np.full((1, 4), 0.25)}, "2 prompts need one row each"),
        ({"weights": np.full((2, 3), 1 / 3)}, r"token_ids\[0\] has 4 entries"),
        ({"weights": np.array([[np.nan, 1, 0, 0]] * 2)}, "finite"),
        ({"token_ids": [[[]] * 4] * 2}, "every answer is empty"),
        ({"token_ids": [[[3] * 40] * 4] * 2}, r"token_ids\[0\]\[0\] is too long"),
        (
            {"token_ids": [[[3]] * 4, [[3], [8]] * 2]},
            r"token_ids\[1\]\[1\] has tokens outside 0 … 7",
        ),
    ],
)
def test_wrong_input_writes_nothing(tiny_base, law, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        small(tiny_base, law, tmp_path / "no", **changes)
    assert not (tmp_path / "no").exists()


def test_wrong_settings_are_named():
    with pytest.raises(InputError, match="batch_size=0"):
        DistillationSettings(batch_size=0)
    with pytest.raises(InputError, match="learning_rate"):
        DistillationSettings(learning_rate=0.0)
