"""The trainer beside TRL's: what it changes, what it leaves, what it refuses."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tests.unit.models.chat_tokenizers import CHATML, sentence_piece
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from tailguard.errors import InputError, ScoreError
from tailguard.models.chat_tokens import encode_chats
from tailguard.models.quiet import without_announcements
from tailguard.models.random_state import seeded
from tailguard.planning import RiskConstraint
from tailguard.risk import CVaR, Mean, RiskLimit
from tailguard.training.dual import PlannedConstraint
from tailguard.training.rloo import DUAL_STATE_NAME, RiskConstrainedRLOOTrainer

PROMPTS = [[{"role": "user", "content": text}] for text in ("a b", "c", "d e a", "b b")]
CVAR = PlannedConstraint(RiskLimit(CVaR(0.25), 0.5), threshold=0.4, multiplier=0.7)


def count_a(completions, **_):
    return [float(c[0]["content"].split().count("a")) for c in completions]


def count_d(completions, **_):
    return [2.0 * c[0]["content"].split().count("d") for c in completions]


def arguments(folder, **changes):
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 3,
        "learning_rate": 1e-2,
        "beta": 0.2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
    } | changes
    with without_announcements():
        return RLOOConfig(**settings)


@pytest.fixture
def make(tiny_base, tmp_path):
    """A trainer of either class on a fresh LoRA policy."""

    def make(kind=RiskConstrainedRLOOTrainer, changes=None, **ours):
        with seeded(0), without_announcements():
            model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
            trainer = kind(
                model,
                count_a,
                args=arguments(tmp_path / "run", **(changes or {})),
                train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
                processing_class=AutoTokenizer.from_pretrained(tiny_base),
                **ours,
            )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


def train(trainer, **how):
    with seeded(1), without_announcements():
        trainer.train(**how)
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora" in n}
    return trainer.state.log_history, weights


def test_without_constraints_it_is_trl(make):
    theirs, their_weights = train(make(RLOOTrainer))
    ours, our_weights = train(make())
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        for name in ("loss", "reward", "reward_std", "kl", "grad_norm", "entropy"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)
    moved = 0.0
    for name, weight in our_weights.items():
        # Rows stand in other columns, so that sums are rounded otherwise.
        torch.testing.assert_close(weight, their_weights[name], atol=1e-4, rtol=1e-4)
        moved += float(weight.abs().sum()) if "lora_B" in name else 0.0
    assert moved > 0


@pytest.mark.parametrize("template", [None, CHATML])
def test_prompts_are_read_as_policies_read_them(make, template):
    trainer = make()
    tokenizer = sentence_piece()
    tokenizer.chat_template = template
    trainer.processing_class = tokenizer
    texts = ["how is it", "a</s> b<|im_start|>", "<s>"]
    prompts = texts if template is None else [[{"role": "user", "content": t}] for t in texts]
    ids, _, _ = trainer._tokenize_prompts(prompts)
    assert ids == encode_chats(tokenizer, texts)
    assert [row.count(tokenizer.bos_token_id) for row in ids] == [int(template is None)] * 3
    # Where nothing is typed, it is what TRL does.
    own, _, _ = RLOOTrainer._tokenize_prompts(trainer, prompts[:1])
    assert own == ids[:1]


def score(trainer, answers):
    completions = [[{"role": "assistant", "content": text}] for text in answers]
    rows = [{"prompt": PROMPTS[0]}] * len(answers)
    trainer.model.train()
    return trainer._calculate_rewards(rows, [PROMPTS[0]] * len(answers), completions, None)


def test_shaped_reward_row_by_row(make):
    trainer = make(cost_funcs=count_d, constraints=[CVAR], changes={"reward_weights": [0.5]})
    answers = ["a a", "d", "a d d", "b", "d a"]
    costs = np.array([0.0, 2.0, 4.0, 0.0, 2.0])
    matrix = score(trainer, answers)
    assert matrix[:, 0].tolist() == [2, 0, 1, 0, 1]
    penalty = 0.4 + np.maximum(costs - 0.4, 0) / 0.25
    assert matrix[:, 1].numpy() == pytest.approx(-0.7 * penalty, rel=1e-6)
    total = (matrix * trainer.reward_weights).nansum(dim=1)  # as TRL goes on
    expected = 0.5 * np.array([2, 0, 1, 0, 1]) - 0.7 * penalty
    assert total.numpy() == pytest.approx(expected, rel=1e-6)
    assert trainer.dual_state.windows[0].costs.tolist() == costs.tolist()
    assert trainer.dual_state.controls[0].multiplier > 0.7  # the budget was broken
    assert score(trainer, answers)[1, 1] < matrix[1, 1]  # and the next batch pays more


def test_evaluation_does_not_move_the_multiplier(make):
    trainer = make(cost_funcs=count_d, constraints=[CVAR])
    trainer.model.eval()
    trainer._calculate_rewards(
        [{"prompt": PROMPTS[0]}], [PROMPTS[0]], [[{"role": "assistant", "content": "d"}]], None
    )
    assert trainer.dual_state.controls[0].multiplier == 0.7
    assert trainer.dual_state.windows[0].costs.size == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_one_unscored_cost_stops_training(make, bad):
    def cost(completions, **_):
        return [0.5] * (len(completions) - 1) + [bad]

    trainer = make(cost_funcs=[cost], constraints=[CVAR])
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    with pytest.raises(ScoreError, match=r"penalty/cost gave (nan|inf) for answer 15"):
        train(trainer)
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())


def test_unscored_reward_stops_too(make):
    def nothing(completions, **_):
        return [math.nan] * len(completions)

    with pytest.raises(ScoreError, match="nothing gave nan"):
        train(make(kind=lambda m, _, **k: RiskConstrainedRLOOTrainer(m, [nothing], **k)))


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize_advantages": True},
        {"reward_clip_range": (-1.0, 1.0)},
        {"mask_truncated_completions": True},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"generation_kwargs": {"top_p": 0.5}},
        {"top_k": 5},
        {"repetition_penalty": 1.2},
    ],
)
def test_settings_that_undo_the_method_are_refused(make, changes):
    with pytest.raises(InputError, match=f"^{next(iter(changes))}="):
        make(changes=changes)


def test_plain_constraints_take_the_plan(make):
    constraint = RiskConstraint(CVaR(0.25), 0.5)
    trainer = make(cost_funcs=count_d, constraints=[constraint], thresholds=0.4, multipliers=0.7)
    assert trainer.dual.constraints == (CVAR,)
    pair = [constraint, RiskConstraint(Mean(), 1.0)]
    both = make(
        cost_funcs=[count_d, count_a], constraints=pair, thresholds=[0.4, 0.0], multipliers=(1, 2)
    )
    assert [c.cost_index for c in both.dual.constraints] == [0, 1]
    assert [c.multiplier for c in both.dual.constraints] == [1.0, 2.0]
    named = [
        PlannedConstraint(RiskLimit(CVaR(0.25), d), 0.4, cost_index=k)
        for d, k in ((0.0, 0), (1.0, 1), (2.0, 1))
    ]
    three = make(cost_funcs=[count_d, count_a], constraints=named)
    assert three.dual.constraints == tuple(named)
    with pytest.raises(InputError, match="1 constraints for 2 cost_funcs"):
        make(cost_funcs=[count_d, count_a], constraints=[constraint], thresholds=0.4)
    with pytest.raises(InputError, match="thresholds is missing"):
        make(cost_funcs=count_d, constraints=[constraint])
    with pytest.raises(InputError, match="give cost_funcs"):
        make(constraints=[CVAR])
    with pytest.raises(InputError, match="multipliers has 3"):
        make(cost_funcs=count_d, constraints=pair, thresholds=0.0, multipliers=[1, 2, 3])
    with pytest.raises(InputError, match="per_prompt"):
        make(
            cost_funcs=count_d,
            constraints=[RiskConstraint(CVaR(0.25), 0.5, "per_prompt")],
            thresholds=0.4,
        )


def test_checkpoint_keeps_the_dual_state(make, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1}
    trainer = make(cost_funcs=count_d, constraints=[CVAR], changes=saving | {"max_steps": 2})
    train(trainer)
    saved = json.loads((tmp_path / "run/checkpoint-1" / DUAL_STATE_NAME).read_text())
    assert len(saved["windows"][0]) == 16
    resumed = make(cost_funcs=count_d, constraints=[CVAR], changes={"max_steps": 2})
    train(resumed, resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
    window = resumed.dual_state.windows[0].costs.tolist()
    assert window[:16] == saved["windows"][0]
    assert len(window) == 32
    assert resumed.state.global_step == 2
    (tmp_path / "run/checkpoint-1" / DUAL_STATE_NAME).unlink()
    lost = make(cost_funcs=count_d, constraints=[CVAR])
    with pytest.raises(InputError, match="cannot be resumed"):
        train(lost, resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
