from typing import Any, cast

import numpy as np
import pytest
import torch

from tailguard.errors import InputError
from tailguard.scorers.fit import ScorerTraining, fit_scorer
from tailguard.scorers.pairs import ResponsePairs

SETTINGS = ScorerTraining(learning_rate=1e-2, num_epochs=6, batch_size=8, max_tokens=24)


def _planted(num_prompts=40, seed=0, flip=False):
    """'good' anywhere in the answer is preferred to 'bad'; the other words say nothing."""
    rng = np.random.default_rng(seed)

    def answer(word):
        words = [f"w{i}" for i in rng.integers(0, 40, 4)]
        words.insert(int(rng.integers(0, 5)), word)
        return " ".join(words)

    prompts = [f"w{i % 40} w{i // 40}" for i in range(num_prompts)]
    better = [answer("good") for _ in prompts]
    worse = [answer("bad") for _ in prompts]
    if flip:
        return ResponsePairs(prompts, worse, better, [1] * num_prompts, [-1] * num_prompts)
    return ResponsePairs(prompts, better, worse)


@pytest.fixture(scope="module")
def backbone(tiny_scorers, tmp_path_factory):
    return tiny_scorers.save_causal_lm(tmp_path_factory.mktemp("lm"), seed=1)


def _accuracy(scorer, pairs):
    higher = scorer.score(pairs.prompts, pairs.higher)
    lower = scorer.score(pairs.prompts, pairs.lower)
    return float((higher > lower).mean()), higher, lower


def test_a_reward_learns_a_planted_rule_on_unseen_pairs(backbone):
    seen = []
    scorer, metrics = fit_scorer(
        backbone, _planted(), settings=SETTINGS, on_progress=lambda *step: seen.append(step)
    )
    accuracy, higher, lower = _accuracy(scorer, _planted(seed=9))
    assert accuracy > 0.9
    assert abs((higher + lower).mean()) < 0.5 * (higher - lower).mean()
    assert seen == [(i, 30) for i in range(1, 31)]
    assert metrics["num_steps"] == 30
    assert metrics["train_loss"] < np.log(2)


def test_a_cost_puts_safe_below_zero_and_unsafe_above(backbone):
    scorer, _ = fit_scorer(backbone, _planted(flip=True), settings=SETTINGS)
    accuracy, unsafe, safe = _accuracy(scorer, _planted(seed=9, flip=True))
    assert accuracy > 0.9
    assert (unsafe > 0).mean() > 0.85
    assert (safe < 0).mean() > 0.85


def test_the_sign_loss_moves_the_zero_where_every_answer_is_safe(backbone):
    pairs = _planted()
    all_safe = ResponsePairs(pairs.prompts, pairs.higher, pairs.lower, [-1] * 40, [-1] * 40)
    scorer, _ = fit_scorer(backbone, all_safe, settings=SETTINGS)
    _, higher, lower = _accuracy(scorer, _planted(seed=9))
    margin = (higher - lower).mean()
    assert margin > 0.5
    assert (higher + lower).mean() < -0.5 * margin  # the reward above is centred instead


def test_the_same_seed_gives_the_same_scorer_and_leaves_the_generators_alone(backbone):
    pairs = _planted(num_prompts=16)
    states = np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    settings = ScorerTraining(learning_rate=1e-2, num_epochs=1, batch_size=4, max_tokens=24)

    def run(seed):
        scorer, _ = fit_scorer(backbone, pairs, settings=settings, seed=seed)
        return scorer.score(pairs.prompts, pairs.higher)

    first = run(3)
    np.testing.assert_array_equal(first, run(3))
    assert np.abs(first - run(4)).max() > 1e-4
    np.testing.assert_equal(np.random.get_state(legacy=False), states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])


def test_only_the_last_layers_move_if_asked(backbone, tiny_scorers):
    settings = ScorerTraining(
        learning_rate=1e-2, num_epochs=1, batch_size=8, max_tokens=24, num_trained_layers=1
    )
    scorer, _ = fit_scorer(backbone, _planted(), settings=settings)
    before, after = (
        tiny_scorers.causal_lm(seed=1).state_dict(),
        cast(Any, scorer.model).state_dict(),
    )
    moved = {
        name for name in after if name in before and not torch.equal(before[name], after[name])
    }
    assert any(name.startswith("model.layers.1.") for name in moved)
    assert not any(name.startswith(("model.layers.0.", "model.embed")) for name in moved)
    assert all(parameter.requires_grad for parameter in scorer.model.parameters())


def test_nothing_is_printed_and_nothing_left_behind(backbone, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ScorerTraining(num_epochs=1, max_tokens=24)
    fit_scorer(backbone, _planted(num_prompts=8), settings=settings)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_wrong_backbones_and_settings_are_refused(backbone, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        fit_scorer(tmp_path / "none", _planted(num_prompts=4))
    with pytest.raises(InputError, match="num_trained_layers: 9"):
        fit_scorer(backbone, _planted(num_prompts=4), settings=ScorerTraining(num_trained_layers=9))
    with pytest.raises(InputError, match="batch_size: 0"):
        ScorerTraining(batch_size=0)
