"""On-policy training as one call: what it improves, what it is held against, how it fails."""

import shutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tailguard.errors import InputError, ScoreError
from tailguard.risk import CVaR, RiskLimit
from tailguard.training.distillation import DistillationSettings, distil
from tailguard.training.dual import PlannedConstraint
from tailguard.training.on_policy import RLOOSettings, combine_members, train_rloo
from tailguard.training.pid import PID

PROMPTS = ["a b", "c", "d e a", "b b"]


@dataclass
class CountWords:
    """Scores an answer by its words, the same for two members."""

    values: dict[str, float]
    seen: list[Any] = field(default_factory=list)

    def score(self, prompts, responses):
        self.seen += prompts
        totals = [sum(self.values.get(w, 0.0) for w in text.split()) for text in responses]
        return np.array([totals, totals], dtype=np.float64).T


@dataclass
class Scorers:
    reward: Any
    cost: Any


def scorers():
    return Scorers(CountWords({"a": 1.0, "d": 1.0}), CountWords({"d": 3.0, "e": 0.5}))


def settings(**changes):
    plain: dict[str, Any] = {
        "num_steps": 2,
        "prompts_per_step": 4,
        "num_generations": 8,
        "max_new_tokens": 2,
        "learning_rate": 3e-3,
        "kl_coef": 0.3,
        "rank": 4,
    }
    return RLOOSettings(**(plain | changes))


def exact_value(law, model, base, shaped, kl_coef):
    """E s − β KL of a policy over the prompts, every answer counted."""
    total = 0.0
    for prompt in PROMPTS:
        ours, theirs = law.log_probs(model, prompt), law.log_probs(base, prompt)
        total += float(np.exp(ours) @ (shaped - kl_coef * (ours - theirs)))
    return total / len(PROMPTS)


@pytest.mark.slow
def test_steps_raise_the_shaped_value_and_lower_the_tail(tiny_base, law, load, tmp_path):
    plan = PlannedConstraint(RiskLimit(CVaR(0.2), 0.8), threshold=0.5, multiplier=0.2)
    out = train_rloo(
        tiny_base,
        PROMPTS,
        tmp_path / "adapter",
        scorers=scorers(),
        constraints=[plan],
        settings=settings(num_steps=20, num_generations=16, pid=PID(0.0, 0.0)),
    )
    base, trained = load(tiny_base), load(tiny_base, out.path)
    costs = np.array([3.0 * t.split().count("d") + 0.5 * t.split().count("e") for t in law.texts])
    rewards = np.array([float(t.split().count("a") + t.split().count("d")) for t in law.texts])
    shaped = rewards - 0.2 * (0.5 + np.maximum(costs - 0.5, 0) / 0.2)
    start = exact_value(law, base, base, shaped, 0.3)
    best = np.mean(
        [0.3 * np.log(np.exp(law.log_probs(base, p)) @ np.exp(shaped / 0.3)) for p in PROMPTS]
    )
    end = exact_value(law, trained, base, shaped, 0.3)
    assert end > start + 0.6 * (best - start)
    curve = out.curve
    assert [row["step"] for row in curve] == list(range(1, 21))
    assert np.mean([r["cost"] for r in curve[-5:]]) < 0.5 * np.mean([r["cost"] for r in curve[:3]])
    assert {"reward", "kl", "length", "multiplier", "threshold", "violation"} <= set(curve[0])
    assert {"risk", "tail_size", "window_cvar"} <= set(curve[0])
    assert {row["multiplier"] for row in curve} == {0.2}  # gains of zero hold λ


def test_reference_is_the_base_after_distillation(tiny_base, law, load, tmp_path):
    """At the first step KL is that of the distilled policy from the base, not 0."""
    weights = np.array([float(t.split().count("a")) for t in law.texts])
    distilled = distil(
        tiny_base,
        PROMPTS,
        [law.token_ids] * 4,
        np.tile(weights / weights.sum(), (4, 1)),
        tmp_path / "distilled",
        settings=DistillationSettings(num_passes=5, batch_size=8, learning_rate=1e-2, rank=4),
    )
    base, start = load(tiny_base), load(tiny_base, distilled.path)
    exact, spread = 0.0, 0.0
    for prompt in PROMPTS:
        ours, theirs = law.log_probs(start, prompt), law.log_probs(base, prompt)
        ratio, mass = ours - theirs, np.exp(ours)
        exact += float(mass @ ratio) / 4
        spread += float(mass @ ratio**2 - (mass @ ratio) ** 2) / 16
    num_generations = 64
    out = train_rloo(
        tiny_base,
        PROMPTS,
        tmp_path / "on-policy",
        scorers=scorers(),
        settings=settings(num_steps=1, num_generations=num_generations),
        start_adapter=distilled.path,
    )
    assert exact > 0.3
    assert out.curve[0]["kl"] == pytest.approx(exact, abs=4 * (spread / num_generations) ** 0.5)
    saved = load_file(out.path / "adapter_model.safetensors")
    started = load_file(distilled.path / "adapter_model.safetensors")
    assert sorted(saved) == sorted(started)  # one adapter, no copy named "ref"
    assert any((saved[name] != started[name]).any() for name in saved)


def test_deterministic_quiet_and_scored_with_the_prompts_given(tiny_base, tmp_path, capfd):
    prompts: list[Any] = [PROMPTS[0], [{"role": "user", "content": "c"}], *PROMPTS[2:]]
    state = torch.get_rng_state()
    runs, steps = [], []
    for name in ("1", "2"):
        judges = scorers()
        runs.append(
            train_rloo(
                tiny_base,
                prompts,
                tmp_path / name,
                scorers=judges,
                constraints=[PlannedConstraint(RiskLimit(CVaR(0.2), 0.8), threshold=0.5)],
                settings=settings(),
                on_progress=lambda *step: steps.append(step),
            )
        )
        assert len(judges.cost.seen) == 2 * 4 * 8
        assert all(prompt in prompts for prompt in judges.cost.seen)
    assert torch.equal(state, torch.get_rng_state())
    assert runs[0].curve == runs[1].curve
    file = "adapter_model.safetensors"
    assert (runs[0].path / file).read_bytes() == (runs[1].path / file).read_bytes()
    assert steps == [(1, 2), (2, 2)] * 2
    assert capfd.readouterr().out == ""


def test_parts_of_a_batch_make_the_same_steps(tiny_base, tmp_path):
    """32 answers at once, and at most 7 at once, which is 8 parts of 4."""
    whole, parts = (
        train_rloo(
            tiny_base,
            PROMPTS,
            tmp_path / str(micro_batch),
            scorers=scorers(),
            settings=settings(micro_batch=micro_batch),
        )
        for micro_batch in (32, 7)
    )
    assert parts.curve == [pytest.approx(row, rel=1e-4) for row in whole.curve]
    ours, theirs = (load_file(run.path / "adapter_model.safetensors") for run in (parts, whole))
    for name, weight in theirs.items():
        assert ours[name] == pytest.approx(weight, abs=1e-4)


def test_tokenizer_without_chat_template(tiny_base, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(tiny_base, plain)
    (plain / "chat_template.jinja").unlink()
    judges = scorers()
    out = train_rloo(plain, PROMPTS, tmp_path / "out", scorers=judges, settings=settings())
    assert len(out.curve) == 2
    assert set(judges.reward.seen) == set(PROMPTS)
    assert "multiplier" not in out.curve[0]  # unconstrained, but the tail is watched
    assert out.curve[0]["window_cvar"] >= out.curve[0]["cost"]


@dataclass
class Broken:
    scores: Any

    def score(self, prompts, responses):
        return self.scores(len(responses))


@pytest.mark.parametrize(
    ("kind", "scores"),
    [
        ("cost", lambda n: np.r_[np.zeros(n - 1), np.nan][:, None]),
        ("cost", lambda n: np.zeros(n)),
        ("reward", lambda n: np.full((n, 2), np.inf)),
    ],
)
def test_broken_scores_stop_and_write_nothing(tiny_base, tmp_path, kind, scores):
    judges = scorers()
    setattr(judges, kind, Broken(scores))
    with pytest.raises(ScoreError, match=kind):
        train_rloo(
            tiny_base,
            PROMPTS,
            tmp_path / "out",
            scorers=judges,
            constraints=[
                PlannedConstraint(RiskLimit(CVaR(0.2), 0.8), threshold=0.5, multiplier=1.0)
            ],
            settings=settings(),
        )
    assert not (tmp_path / "out").exists()


def test_members_are_read_pessimistically():
    members = np.array([[1.0, 3.0], [2.0, 2.0]])
    assert combine_members(members, 2, "cost").tolist() == [2.0, 2.0]
    assert combine_members(members, 2, "cost", 1.5) == pytest.approx([2 + 1.5 * 2**0.5, 2.0])
    for wrong in (members[:, 0], members[:1], members[:, :0]):
        with pytest.raises(ScoreError, match="shape"):
            combine_members(wrong, 2, "cost")


def test_wrong_input_is_named(tiny_base, tmp_path):
    for prompts, changes, message in (
        (PROMPTS[:2], {}, "2 prompts for prompts_per_step=4"),
        (["a " * 40, *PROMPTS], {}, r"prompts\[0\] is too long"),
    ):
        with pytest.raises(InputError, match=message):
            train_rloo(
                tiny_base, prompts, tmp_path, scorers=scorers(), settings=settings(**changes)
            )
    with pytest.raises(InputError, match="no adapter_config"):
        train_rloo(
            tiny_base,
            PROMPTS,
            tmp_path,
            scorers=scorers(),
            settings=settings(),
            start_adapter=tmp_path,
        )
    for changes, message in (
        ({"num_generations": 1}, "num_generations=1"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"kl_coef": -0.1}, "kl_coef"),
        ({"pessimism": -0.1}, "pessimism"),
        ({"pessimism": float("nan")}, "pessimism"),
    ):
        with pytest.raises(InputError, match=message):
            settings(**changes)


def test_with_raters_each_has_a_column_and_answers_are_read_once(tiny_base, tmp_path):
    read: list[int] = []

    def rater_cost(prompts, texts):
        read.append(len(texts))
        cost = scorers().cost.score(prompts, texts)[:, :1]
        return np.concatenate([2.0 * cost, 0.01 * cost], axis=1)

    tail = CVaR(0.2)
    plans = [PlannedConstraint(RiskLimit(tail, 0.5), 0.2, 1.0, k) for k in range(2)]
    made = train_rloo(
        tiny_base,
        PROMPTS,
        tmp_path / "each",
        scorers=scorers(),
        constraints=plans,
        settings=settings(),
        rater_cost=(("carers", "traders"), rater_cost),
    )
    assert read == [4 * 8] * 2
    last = made.curve[-1]
    assert last["mean_cost_1"] == pytest.approx(0.005 * last["mean_cost_0"])
    assert last["cost"] == pytest.approx((last["mean_cost_0"] + last["mean_cost_1"]) / 2)
    # Each limit has a multiplier of its own: one is passed, and there is room under the other.
    assert last["multiplier_0"] > 1.0 > last["multiplier_1"]
    with pytest.raises(ScoreError, match="2 raters"):
        train_rloo(
            tiny_base,
            PROMPTS,
            tmp_path / "wrong",
            scorers=scorers(),
            constraints=plans,
            settings=settings(),
            rater_cost=(("carers", "traders"), lambda p, r: np.zeros((len(r), 3))),
        )
    assert not (tmp_path / "wrong").exists()
