"""Distilling a tilted bank: the law it reaches, what it writes, what it refuses."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tailguard.errors import InputError
from tailguard.models.policy import load_policy
from tailguard.training.distillation import DistillationSettings, distil, resample
from tailguard.training.weighted_likelihood import (
    Row,
    answer_log_probs,
    collate,
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
        [law.texts] * len(PROMPTS),
        target,
        tmp_path / "adapter",
        finished=np.tile(law.finished, (len(PROMPTS), 1)),
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
        "responses": [law.texts[10:14], law.texts[20:24]],
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


def test_only_finished_answers_learn_to_end(tiny_base, load, tmp_path):
    """The same text, cut off or finished: only the second raises the end token after it."""

    def end_log_prob(finished):
        out = distil(
            tiny_base,
            ["a b"],
            [["c c"]],
            np.ones((1, 1)),
            tmp_path / str(finished),
            finished=np.array([[finished]]),
            settings=DistillationSettings(
                draws_per_prompt=1, num_passes=8, batch_size=1, learning_rate=1e-2
            ),
        )
        with torch.no_grad():
            logits = load(tiny_base, out.path)(torch.tensor([[1, 3, 4, 2, 5, 5]])).logits[0, -1]
        return float(torch.log_softmax(logits, -1)[0])

    assert end_log_prob(True) > end_log_prob(False) + 1


def test_answer_log_probs_whatever_the_padding(tiny_base, law):
    policy = load_policy(tiny_base)
    rows = [Row([1, 3, 4, 2], list(answer), 1.0) for answer in law.answers[:12]]
    rows.append(Row([1, 5, 2], [6, 7, 6, 0], 1.0))
    with torch.no_grad():
        together = answer_log_probs(policy.model, collate(rows, 0)).numpy()
    expected = law.log_probs(policy.model, "a b")[:12]
    assert together[:12] == pytest.approx(expected, abs=1e-4)


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
        ({"weights": np.full((2, 3), 1 / 3)}, r"responses\[0\] has 4 entries"),
        ({"weights": np.array([[np.nan, 1, 0, 0]] * 2)}, "finite"),
        ({"finished": np.ones((2, 3), dtype=bool)}, "finished has shape"),
        ({"responses": [[""] * 4] * 2, "finished": np.zeros((2, 4), dtype=bool)}, "all empty"),
        ({"responses": [["a " * 40] * 4] * 2}, r"responses\[0\]\[\d\] is too long"),
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
