from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tailguard.errors import InputError, ScoreError
from tailguard.models.chat_tokens import encode_chats
from tailguard.scorers.check import check_scorer
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.scorer import Scorer, require_finite
from tailguard.scorers.shift import ShiftModel

tf: Any = transformers  # its configs take what their parents take, which no checker sees
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


def test_states_are_the_last_token_and_means_over_tokens(tiny_scorers):
    model, tokenizer = tiny_scorers.classifier(), tiny_scorers.tokenizer()
    scorer = SequenceClassificationScorer(model, tokenizer, heads=torch.ones(4, 16))
    states, num_tokens = scorer.states(PROMPTS, RESPONSES)
    for k, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = torch.tensor([encode_chats(tokenizer, [prompt], [response])[0]])
        assert num_tokens[k] == ids.shape[1]
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids).last_hidden_state[0]
            embedded = model.get_input_embeddings()(ids)[0]
        expected = torch.stack([hidden[-1], embedded.mean(0), hidden.mean(0)])
        np.testing.assert_allclose(states[k], expected.numpy(), atol=1e-5)


def test_shift_is_told_beside_the_scores_and_by_the_farthest_window(tiny_scorers):
    model, tokenizer = tiny_scorers.classifier(), tiny_scorers.tokenizer()
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{rng.integers(12)}" for _ in range(rng.integers(1, 9))) for _ in range(80)]
    heads = torch.ones(4, 16)
    plain = SequenceClassificationScorer(model, tokenizer, heads=heads)
    assert np.isnan(plain.read(["w1"] * 80, texts).shift).all()
    states, num_tokens = plain.states(["w1"] * 80, texts)
    law = ShiftModel.fit(states[:, 1:], num_tokens)
    telling = SequenceClassificationScorer(model, tokenizer, heads=heads, shift=law, max_tokens=16)
    found = telling.read(["w1"] * 3, [*texts[:2], "good " * 60])
    scores, shift = found.scores, found.shift
    np.testing.assert_allclose(scores, telling.score(["w1"] * 3, [*texts[:2], "good " * 60]))
    assert shift[2] > shift[:2].max() + 1
    assert telling.read([], []).shift.shape == (0,)
    with pytest.raises(InputError, match="shift"):
        SequenceClassificationScorer(model, tokenizer, shift=law)


def test_what_a_text_is_about_comes_with_its_scores(tiny_scorers):
    model, tokenizer = tiny_scorers.classifier(), tiny_scorers.tokenizer()
    scorer = SequenceClassificationScorer(model, tokenizer, heads=torch.ones(4, 16), max_tokens=16)
    answers = [*RESPONSES[:-1], "good " * 60]  # the last takes several windows
    found, topic = scorer.read_with_topic(PROMPTS, answers)
    assert topic is not None
    assert np.array_equal(found.scores, scorer.score(PROMPTS, answers))
    assert np.array_equal(topic, scorer.states(PROMPTS, answers)[0][:, 1])
    _, none = scorer.read_with_topic([], [])
    assert none is not None
    assert none.shape == (0, 16)
    plain = SequenceClassificationScorer(model, tokenizer)
    assert plain.read_with_topic(PROMPTS, answers)[1] is None


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


def test_unfit_heads_or_lengths_are_rejected(tiny_scorers):
    tokenizer, model = tiny_scorers.tokenizer(), tiny_scorers.classifier()
    with pytest.raises(InputError, match=r"needs \[members, 16\]"):
        SequenceClassificationScorer(model, tokenizer, heads=torch.ones(4, 8))
    with pytest.raises(InputError, match="1 for 2 prompts"):
        SequenceClassificationScorer(model, tokenizer).score(["w1", "w2"], ["good"])


def named(model, names, problem_type=None):
    model.config.id2label = dict(enumerate(names))
    model.config.problem_type = problem_type
    return model


def test_several_outputs_need_a_label_that_the_model_has(tiny_scorers):
    tokenizer = tiny_scorers.tokenizer()
    model = named(tiny_scorers.classifier(num_labels=3), ["fine", "Rude", "grave"])
    for label in (None, "kind", 3):
        with pytest.raises(InputError, match=r"label: .*fine, Rude, grave"):
            SequenceClassificationScorer(model, tokenizer, label=label)
    with pytest.raises(InputError, match="no output 'x'; the model has LABEL_0"):
        SequenceClassificationScorer(tiny_scorers.classifier(), tokenizer, label="x")


@pytest.mark.parametrize("label", ["rude", 1])
def test_a_label_scores_its_log_odds(tiny_scorers, label):
    """Above 0 exactly where the label is more probable than not, by the model's own softmax."""
    tokenizer = tiny_scorers.tokenizer()
    model = named(tiny_scorers.classifier(num_labels=3), ["fine", "Rude", "grave"])
    scores = SequenceClassificationScorer(model, tokenizer, label=label).score(PROMPTS, RESPONSES)
    probability = _logits(model, tokenizer).softmax(dim=1)[:, 1].double().numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-scores[:, 0])), probability, atol=1e-5)


def test_a_label_of_a_multi_label_model_scores_its_logit(tiny_scorers):
    tokenizer = tiny_scorers.tokenizer()
    model = named(
        tiny_scorers.classifier(num_labels=3), ["a", "b", "c"], "multi_label_classification"
    )
    scores = SequenceClassificationScorer(model, tokenizer, label="c").score(PROMPTS, RESPONSES)
    expected = _logits(model, tokenizer)[:, 2].numpy()
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-5)


def _logits(model, tokenizer):
    ids = [encode_chats(tokenizer, [p], [r])[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row])).logits for row in ids])


def test_no_text_is_longer_than_the_model_can_read(tiny_scorers):
    scorer = SequenceClassificationScorer(
        tiny_scorers.classifier(), tiny_scorers.tokenizer(), max_tokens=10**6
    )
    limits = scorer.model.config.max_position_embeddings, scorer.tokenizer.model_max_length
    assert scorer.max_tokens == min(limits)
    assert np.isfinite(scorer.score(["w1 " * 5000], ["good"])).all()


LONG = " ".join(f"w{k % 40}" for k in range(200))


def test_a_harmful_opening_is_not_cut_away(tiny_scorers):
    scorer = SequenceClassificationScorer(
        tiny_scorers.classifier(), tiny_scorers.tokenizer(), combine="mean"
    )
    opening, plain = (scorer.score(["w1"], [f"{word} {LONG}"]) for word in ("harm harm", "w1 w2"))
    assert opening != plain


@pytest.mark.parametrize("combine", ["worst", "mean"])
def test_windows_are_read_one_by_one_and_combined(tiny_scorers, combine):
    scorer = SequenceClassificationScorer(
        tiny_scorers.classifier(), tiny_scorers.tokenizer(), combine=combine, max_tokens=16
    )
    whole = scorer.score(["w1"], [LONG])
    rows = scorer._encoding.windows(["w1"], [LONG])[0]
    assert len(rows) > 10
    with torch.no_grad():
        each = [float(scorer.model(input_ids=torch.tensor([r.input_ids])).logits) for r in rows]
    assert whole[0, 0] == pytest.approx(
        max(each) if combine == "worst" else np.mean(each), abs=1e-5
    )


def small(config, **sizes):
    return config(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        **sizes,
    )


ENCODER = {"intermediate_size": 32, "max_position_embeddings": 40}
DECODER = ENCODER | {"pad_token_id": None, "eos_token_id": 4, "bos_token_id": None}
CLASSIFIERS = {
    "bert": lambda: small(tf.BertConfig, **ENCODER),
    "roberta": lambda: small(tf.RobertaConfig, pad_token_id=1, **ENCODER),
    "xlm-roberta": lambda: small(tf.XLMRobertaConfig, pad_token_id=1, **ENCODER),
    "mpnet": lambda: small(tf.MPNetConfig, pad_token_id=1, **ENCODER),
    "electra": lambda: small(tf.ElectraConfig, embedding_size=16, **ENCODER),
    "albert": lambda: small(tf.AlbertConfig, embedding_size=16, **ENCODER),
    "deberta-v2": lambda: small(
        tf.DebertaV2Config, relative_attention=True, pos_att_type=["c2p", "p2c"], **ENCODER
    ),
    "distilbert": lambda: tf.DistilBertConfig(
        vocab_size=60, dim=16, hidden_dim=32, n_layers=2, n_heads=2, num_labels=1,
        max_position_embeddings=40,
    ),
    "xlnet": lambda: tf.XLNetConfig(
        vocab_size=60, d_model=16, n_layer=2, n_head=2, d_inner=32, num_labels=1
    ),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=40, num_labels=1, eos_token_id=4,
        bos_token_id=4,
    ),
    "llama": lambda: small(tf.LlamaConfig, num_key_value_heads=2, **DECODER),
    "qwen2": lambda: small(tf.Qwen2Config, num_key_value_heads=2, **DECODER),
}  # fmt: skip


def build(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tf.AutoModelForSequenceClassification.from_config(CLASSIFIERS[name]())
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def encoder_tokenizer(pad):
    """[CLS] A [SEP] B [SEP], with types; the pad token has the id that the model expects."""
    special = ["<a>", "<b>", "[CLS]", "[SEP]", "<end>"]
    special[pad] = "[PAD]"
    vocab = {word: k for k, word in enumerate([*special, "<unk>", *(f"w{k}" for k in range(54))])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="<unk>", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


PAIR = ("w1 w2 w3 w4", "w5 w6 w7")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_published_classifier_of_any_kind_keeps_a_scorers_promises(name):
    model = build(name)
    pad = 1 if name in ("roberta", "xlm-roberta", "mpnet") else 0
    scorer = SequenceClassificationScorer(model, encoder_tokenizer(pad))
    assert check_scorer(scorer, kind="cost").num_members == 1
    if name not in ("xlnet", "deberta-v2"):
        longest = 38 if pad else 40  # RoBERTa's positions begin behind its padding's
        assert scorer.max_tokens == longest
        filled = " ".join(["w9"] * (longest - 5))
        assert scorer.score(["w1 w2"], [filled]).shape == (1, 1)


@pytest.mark.parametrize("name", ["bert", "electra", "albert", "xlnet"])
def test_the_two_texts_are_told_apart_by_their_types(name):
    model, tokenizer = build(name), encoder_tokenizer(0)
    inputs = tokenizer(*PAIR, return_tensors="pt")
    assert set(inputs["token_type_ids"][0].tolist()) == {0, 1}
    with torch.no_grad():
        expected = float(model(**inputs).logits)
        untyped = float(model(**inputs | {"token_type_ids": 0 * inputs["token_type_ids"]}).logits)
    assert abs(expected - untyped) > 1e-4
    score = SequenceClassificationScorer(model, tokenizer).score([PAIR[0]], [PAIR[1]])
    assert float(score[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_a_scorer_of_answers_alone_does_not_read_the_prompt():
    scorer = SequenceClassificationScorer(build("bert"), encoder_tokenizer(0), input="response")
    scores = scorer.score(["w1", "w2 w3"], ["w5 w6"] * 2)
    inputs = encoder_tokenizer(0)("w5 w6", return_tensors="pt")
    with torch.no_grad():
        expected = float(scorer.model(**inputs).logits)
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-5)


def test_a_decoder_without_a_pad_token_is_read_row_by_row(tiny_scorers):
    tokenizer = tiny_scorers.tokenizer(pad_token=None)
    tokenizer.eos_token = None
    model = tiny_scorers.classifier()
    model.config.pad_token_id = None
    scores = SequenceClassificationScorer(model, tokenizer).score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(
        scores[:, 0], _one_by_one(model, tokenizer, PROMPTS, RESPONSES), atol=1e-5
    )
