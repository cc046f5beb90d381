import numpy as np
import pytest
import torch

from tailguard.errors import InputError, ScoreError
from tailguard.scorers.scorer import (
    Scorer,
    SequenceClassificationScorer,
    encode_for_scoring,
    require_finite,
)

PROMPTS = ["w1 w2 w3", "w4", [{"role": "user", "content": "w5 w6"}]]
RESPONSES = ["good w7", "", "bad w8 w9 w10 w11 w12"]


def _one_by_one(model, tokenizer, prompts, responses):
    """Oracle: each chat alone, unpadded, through the model's own forward."""
    out = []
    for prompt, response in zip(prompts, responses, strict=True):
        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        chat = [*chat, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out.append(float(model(input_ids=ids).logits))
    return np.array(out)


@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
def test_scores_equal_one_at_a_time_whatever_the_batches(tiny_scorers, batch_tokens):
    model, tokenizer = tiny_scorers.classifier(), tiny_scorers.tokenizer()
    scorer = SequenceClassificationScorer(model, tokenizer, batch_tokens=batch_tokens)
    scores = scorer.score(PROMPTS, RESPONSES)
    assert isinstance(scorer, Scorer)
    assert scores.dtype == np.float64
    assert scores.shape == (3, 1)
    oracle = _one_by_one(model, tokenizer, PROMPTS, RESPONSES)
    assert np.ptp(oracle) > 0.01
    np.testing.assert_allclose(scores[:, 0], oracle, atol=1e-5)


@pytest.mark.parametrize("pad_token", ["<pad>", "<end>"])
def test_heads_whose_mean_is_the_score_layer_average_to_the_model(tiny_scorers, pad_token):
    model, tokenizer = tiny_scorers.classifier(), tiny_scorers.tokenizer(pad_token=pad_token)
    noise = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    heads = model.score.weight.detach() + noise - noise.mean(dim=0)
    plain = SequenceClassificationScorer(model, tokenizer).score(PROMPTS, RESPONSES)
    ensemble = SequenceClassificationScorer(model, tokenizer, heads=heads)
    scores = ensemble.score(PROMPTS, RESPONSES)
    assert ensemble.num_members == scores.shape[1] == 3
    assert scores.std(axis=1).min() > 0.05
    np.testing.assert_allclose(scores.mean(axis=1), plain[:, 0], atol=1e-5)


def test_too_long_a_text_loses_its_beginning(tiny_scorers):
    tokenizer = tiny_scorers.tokenizer()
    whole = encode_for_scoring(tokenizer, ["w1 w2 w3"], ["good bad"], max_tokens=32)[0]
    cut = encode_for_scoring(tokenizer, ["w1 w2 w3"], ["good bad"], max_tokens=4)[0]
    assert cut == whole[-4:]
    assert tokenizer.decode(cut).split() == ["<assistant>", "good", "bad", "<end>"]


def test_without_a_template_the_tokenizer_encodes_the_pair(tiny_scorers):
    tokenizer = tiny_scorers.tokenizer(template=None)
    ids = encode_for_scoring(tokenizer, ["w1 w2"], ["good"], max_tokens=32)[0]
    assert tokenizer.decode(ids).split() == ["w1", "w2", "good"]


def test_nothing_to_score_gives_no_rows(tiny_scorers):
    heads = torch.ones(4, 16)
    scorer = SequenceClassificationScorer(
        tiny_scorers.classifier(), tiny_scorers.tokenizer(), heads=heads
    )
    assert scorer.score([], []).shape == (0, 4)


def test_a_nan_weight_stops_the_scoring(tiny_scorers):
    model = tiny_scorers.classifier()
    with torch.no_grad():
        model.score.weight[0, 0] = float("nan")
    scorer = SequenceClassificationScorer(model, tiny_scorers.tokenizer())
    with pytest.raises(ScoreError, match="not finite"):
        scorer.score(PROMPTS, RESPONSES)


def test_require_finite_names_the_first_bad_entry():
    with pytest.raises(
        ScoreError, match=r"costs: 2 of 4 are not finite \(first at \(0, 1\): nan\)"
    ):
        require_finite(np.array([[1.0, np.nan], [np.inf, 0.0]]), "costs")


def test_two_outputs_or_unfit_heads_or_lengths_are_rejected(tiny_scorers):
    tokenizer = tiny_scorers.tokenizer()
    with pytest.raises(InputError, match="2 outputs"):
        SequenceClassificationScorer(tiny_scorers.classifier(num_labels=2), tokenizer)
    model = tiny_scorers.classifier()
    with pytest.raises(InputError, match=r"needs \[members, 16\]"):
        SequenceClassificationScorer(model, tokenizer, heads=torch.ones(4, 8))
    with pytest.raises(InputError, match="1 for 2 prompts"):
        SequenceClassificationScorer(model, tokenizer).score(["w1", "w2"], ["good"])


def test_no_text_is_longer_than_the_model_can_read(tiny_scorers):
    scorer = SequenceClassificationScorer(
        tiny_scorers.classifier(), tiny_scorers.tokenizer(), max_tokens=10**6
    )
    limits = scorer.model.config.max_position_embeddings, scorer.tokenizer.model_max_length
    assert scorer.max_tokens == min(limits)
    assert np.isfinite(scorer.score(["w1 " * 5000], ["good"])).all()
