"""Log-likelihoods of answers in batches, on models of many kinds."""

import numpy as np
import pytest
import torch
from tests.unit.engines.tiny_models import tiny_model

from tailguard.training.weighted_likelihood import Row, answer_log_probs, collate


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "opt",
        "bloom",
        "mistral",
        "mamba",
        "rwkv",
        "recurrent_gemma",
        "cohere2",
        "gemma3n_text",
    ],
)
def test_answer_log_probs_whatever_the_batch(name):
    """Rows of different lengths together, against each alone by a plain forward pass."""
    model = tiny_model(name)
    generator = np.random.default_rng(0)
    rows = [
        Row(
            generator.integers(1, 48, prompt).tolist(),
            generator.integers(1, 48, answer).tolist(),
            1.0,
        )
        for prompt, answer in [(9, 3), (2, 8), (5, 1), (1, 4)]
    ]
    alone = []
    with torch.no_grad():
        for prompt, answer, _ in rows:
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].double()
            taken = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt + answer) - 1), answer]
            alone.append(float(taken.sum()))
        together = answer_log_probs(model, collate(rows, 0))
    assert together.tolist() == pytest.approx(alone, abs=1e-3)


def test_only_the_answers_meet_the_output_layer():
    model = tiny_model("llama")
    rows = [Row([1] * 20, [2, 3], 1.0), Row([1] * 3, [4] * 5, 1.0)]
    seen = []
    with model.lm_head.register_forward_hook(lambda *given: seen.append(given[2].shape[:2])):
        answer_log_probs(model, collate(rows, 0))
    assert seen == [(2, 5)]
