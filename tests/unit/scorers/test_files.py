import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tailguard.errors import InputError
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.files import load_scorer, save_scorer
from tailguard.scorers.shift import ShiftModel

PROMPTS, RESPONSES = ["w1 w2", "w3"], ["good w4", "bad"]


def _ensemble(tiny_scorers):
    heads = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    return SequenceClassificationScorer(
        tiny_scorers.classifier(), tiny_scorers.tokenizer(), heads=heads
    )


def test_an_ensemble_comes_back_and_reads_as_a_one_output_model(tiny_scorers, tmp_path):
    scorer = _ensemble(tiny_scorers)
    save_scorer(scorer, tmp_path / "cost")
    scores = scorer.score(PROMPTS, RESPONSES)
    loaded = load_scorer(tmp_path / "cost")
    np.testing.assert_allclose(loaded.score(PROMPTS, RESPONSES), scores, atol=1e-6)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cost")
    mean = SequenceClassificationScorer(plain, tiny_scorers.tokenizer())
    np.testing.assert_allclose(mean.score(PROMPTS, RESPONSES)[:, 0], scores.mean(axis=1), atol=1e-5)


def test_the_law_of_its_features_comes_back_and_never_belongs_to_another(tiny_scorers, tmp_path):
    scorer = _ensemble(tiny_scorers)
    rng = np.random.default_rng(0)
    scorer.shift = ShiftModel.fit(rng.standard_normal((60, 2, 16)), rng.integers(3, 9, 60) * 1.0)
    save_scorer(scorer, tmp_path / "cost")
    found = load_scorer(tmp_path / "cost").read(PROMPTS, RESPONSES).shift
    told = scorer.read(PROMPTS, RESPONSES).shift
    np.testing.assert_allclose(found, told, rtol=1e-3)
    (tmp_path / "cost" / "shift.safetensors").write_bytes(b"not tensors")
    assert "shift.safetensors: cannot be read" in _reason(tmp_path / "cost")
    save_scorer(_ensemble(tiny_scorers), tmp_path / "cost")
    assert load_scorer(tmp_path / "cost").shift is None


def test_a_plain_model_has_one_member(tiny_scorers, tmp_path):
    loaded = load_scorer(tiny_scorers.save_classifier(tmp_path / "m"))
    assert loaded.score(PROMPTS, RESPONSES).shape == (2, 1)


def _reason(path, **options):
    with pytest.raises(InputError) as caught:
        load_scorer(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_is_not_a_scorer_is_refused_in_one_line(tiny_scorers, tmp_path):
    assert "no such folder" in _reason(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "config.json" in _reason(tmp_path / "empty")
    assert "CausalLM" in _reason(tiny_scorers.save_causal_lm(tmp_path / "lm"))
    two = tiny_scorers.save_classifier(tmp_path / "two", num_labels=2)
    assert "label: none given for 2 outputs; name the one to score: LABEL_0, LABEL_1" in _reason(
        two
    )


def test_a_tokenizer_of_a_larger_model_is_refused(tiny_scorers, tmp_path):
    folder = tiny_scorers.save_classifier(tmp_path / "m")
    config = tiny_scorers.classifier().config
    config.vocab_size -= 2
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    assert f"but the model has {config.vocab_size} embeddings" in _reason(folder)


def test_a_pad_token_that_the_model_lacks_is_the_end_token(tiny_scorers, tmp_path):
    folder = tiny_scorers.save_classifier(tmp_path / "m")
    tokenizer = tiny_scorers.tokenizer()
    scores: list[np.ndarray] = []
    for pad in (tokenizer.eos_token, "<a pad of its own>"):
        tokenizer.add_special_tokens({"pad_token": pad})
        tokenizer.save_pretrained(folder)
        scores.append(load_scorer(folder).score(PROMPTS, RESPONSES))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-6)


def test_pickled_weights_are_read_only_if_asked_for(tiny_scorers, tmp_path):
    folder = tiny_scorers.save_classifier(tmp_path / "m")
    expected = load_scorer(folder).score(PROMPTS, RESPONSES)
    torch.save(tiny_scorers.classifier().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "pickled" in _reason(folder)
    scores = load_scorer(folder, allow_pickle=True).score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(scores, expected)


def test_damaged_weights_and_damaged_heads_are_named(tiny_scorers, tmp_path):
    save_scorer(_ensemble(tiny_scorers), tmp_path / "e")
    (tmp_path / "e" / "heads.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match=r"heads\.safetensors: cannot be read"):
        load_scorer(tmp_path / "e")
    (tmp_path / "e" / "heads.safetensors").unlink()
    (tmp_path / "e" / "model.safetensors").write_bytes(b"not tensors")
    assert "cannot be read" in _reason(tmp_path / "e")


def test_a_hub_name_that_is_not_there_is_refused():
    _reason("nobody/no-such-scorer")
