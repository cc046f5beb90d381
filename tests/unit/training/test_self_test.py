"""The trainer's log-probabilities and samples, on models of many kinds, against plain forwards."""

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from tests.unit.engines.tiny_models import tiny_model
from tests.unit.training.test_rloo import arguments
from transformers import AutoTokenizer

from tailguard.errors import InputError
from tailguard.models.quiet import without_announcements
from tailguard.models.random_state import seeded
from tailguard.training.coverage import lora_config
from tailguard.training.rloo import RiskConstrainedRLOOTrainer
from tailguard.training.self_test import check_trainer, generation_difference, log_prob_difference

KINDS = [
    "gpt2",
    "opt",
    "bloom",
    "llama",
    "mistral",
    "gemma3_text",
    "llama4_text",
    "mamba",
    "phi3",
    "cohere2",
    "recurrent_gemma",
]


@pytest.fixture
def make(tiny_base, tmp_path):
    """A trainer of an adapter on a tiny model; its weights are not zero."""

    def make(name, **changes) -> Any:
        model: Any = tiny_model(name, **changes)
        with seeded(0), without_announcements():
            tuned: Any = get_peft_model(model, lora_config(model, 2))
            for key, weight in tuned.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(weight, std=0.1)
            return RiskConstrainedRLOOTrainer(
                tuned,
                lambda completions, **_: [0.0] * len(completions),
                args=arguments(tmp_path / "run", disable_dropout=True),
                train_dataset=Dataset.from_dict({"prompt": ["a b"] * 4}),
                processing_class=AutoTokenizer.from_pretrained(tiny_base),
            )

    return make


@pytest.mark.parametrize("name", KINDS)
def test_padded_rows_have_the_log_probs_of_plain_forwards(make, name):
    """Prompts padded on the left and answers on the right, in training mode with gradients."""
    trainer = make(name)
    prompts, answers = [[5, 6, 7, 8, 9, 10, 11, 12], [3], [9, 4, 2]], [[7, 8], [1, 2, 3, 4, 5], [6]]
    rows, masks, expected = [], [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        left, right = 8 - len(prompt), 5 - len(answer)
        rows.append([0] * left + prompt + answer + [0] * right)
        masks.append([0] * left + [1] * len(prompt + answer) + [0] * right)
        with torch.no_grad():
            logits = trainer.model.eval()(torch.tensor([prompt + answer]), use_cache=False).logits
        law = logits[0].double().log_softmax(-1)[len(prompt) - 1 : -1]
        expected += law[range(len(answer)), answer].tolist()
    trainer.model.train()
    found, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, torch.tensor(rows), torch.tensor(masks), 5, compute_entropy=True
    )
    assert entropies.shape == found.shape == (3, 5)
    own = torch.tensor(masks)[:, -5:].bool()
    assert found[own].tolist() == pytest.approx(expected, abs=1e-4 * 5)
    found[own].sum().backward()


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama4_text"])
def test_models_that_pass_are_trained_as_they_are(make, name, caplog):
    trainer = make(name)
    assert log_prob_difference(trainer) < 1e-4
    assert generation_difference(trainer) < 1e-3
    with caplog.at_level(logging.WARNING):
        check_trainer(trainer)
    assert not trainer.generates_by_length
    assert not any(r.name.startswith("tailguard") for r in caplog.records)


def test_a_model_that_cannot_be_given_pads_generates_by_length(make, caplog):
    trainer = make("minimax")
    with caplog.at_level(logging.WARNING):
        check_trainer(trainer)
    assert trainer.generates_by_length
    assert "continued apart" in caplog.text
    assert generation_difference(trainer) < 1e-3
    answers = trainer._generate_single_turn([[5, 6, 7], [3], [8, 9, 4]], None, {})
    assert [1 <= len(answer) <= 3 for answer in answers] == [True] * 3


def test_noise_of_training_is_seen(make):
    trainer = make("opt")
    for module in trainer.model.modules():
        if type(module).__name__ == "OPTDecoderLayer":
            assert module.dropout == 0.0
            module.dropout = 0.5  # a number, which OPT hands to a function
    with pytest.raises(InputError, match="OPTForCausalLM"):
        check_trainer(trainer)


def test_a_trainer_that_is_off_is_refused_by_name(make):
    trainer = make("llama")
    right = trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = lambda *given: (
        right(*given)[0] - 0.05,
        None,
        None,
    )
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM: the trainer's log-prob.* by 0.05 nats"
    ):
        check_trainer(trainer)
    trainer._get_per_token_logps_and_entropies = lambda *given: 1 / 0
    with pytest.raises(InputError, match="cannot be had: ZeroDivisionError"):
        check_trainer(trainer)
