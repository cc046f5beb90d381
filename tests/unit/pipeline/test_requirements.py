"""A recipe that a later stage would refuse is refused before the first."""

import json

import pytest
import torch
from pydantic import ValidationError

from tailguard.config import FileData, Recipe
from tailguard.errors import InputError
from tailguard.evaluation.judge_needs import JUDGE_NEEDS, JUDGE_OF_DATA, JudgeNeeds
from tailguard.pipeline.chain import STAGES, run_chain
from tailguard.pipeline.requirements import check_requirements
from tailguard.pipeline.stage_names import STAGE_SUMMARIES

TARGET = {"name": "a", "reduction": 0.5}
COMPLETE = {"plan": {"targets": [TARGET]}}


def recipe(**sections):
    return Recipe.model_validate(COMPLETE | sections)


def test_commands_are_the_stages_in_their_order():
    assert list(STAGE_SUMMARIES) == list(STAGES)
    assert all(name == stage.name for name, stage in STAGES.items())


def test_a_complete_recipe_passes():
    check_requirements(recipe(), STAGES)


@pytest.mark.parametrize(
    ("sections", "stage", "said"),
    [
        ({"plan": {}}, "train", "plan.targets: none"),
        ({"policy": {"temperature": 0.7}}, "train", "policy.temperature: 0.7"),
        (
            {"plan": {"targets": [TARGET | {"scope": "per_prompt"}]}},
            "train",
            "'a' has scope per_prompt",
        ),
        (
            {
                "scorers": {
                    "cost_model": {
                        "endpoint": "http://guard/v1",
                        "model": "guard",
                        "key_env": "NO_SUCH_KEY",
                    }
                }
            },
            "fit-scorers",
            "the environment has no NO_SUCH_KEY; set it to the API key of http://guard/v1",
        ),
        (
            {"policy": {"trust_remote_code": True}},
            "fit-scorers",
            "scorers are not fitted on a model with code of its own",
        ),
        (
            {"policy": {"model": "own", "trust_remote_code": True}, "scorers": {"backbone": "b"}},
            "train",
            "planned for, not trained",
        ),
        (
            {"train": {"prompts_per_step": 64}, "data": {"source": "sandbox", "num_prompts": 63}},
            "train",
            "train.prompts_per_step: 64 of 63",
        ),
        (
            {
                "train": {"prompts_per_step": 60, "num_rounds": 1},
                "data": {"source": "sandbox", "num_prompts": 64},
            },
            "train",
            "rounds hold out 16; take fewer",
        ),
        (
            {"data": FileData(source="files", prompts=("p",), reward_pairs=("r",))},
            "evaluate",
            "data.evaluation_prompts: none",
        ),
        (
            {
                "data": FileData(
                    source="files", prompts=("p",), reward_pairs=("r",), evaluation_prompts=("e",)
                )
            },
            "evaluate",
            "data.cost_pairs: none",
        ),
    ],
)
def test_what_a_stage_needs_is_asked_for_where_it_will_run(sections, stage, said, tmp_path):
    asked = recipe(**sections)
    with pytest.raises(InputError, match=said):
        run_chain(asked, tmp_path / "out", until=stage)
    assert not (tmp_path / "out").exists()
    check_requirements(asked, {"prepare"})


def test_a_target_cannot_take_the_name_of_a_member():
    plan = {"targets": [TARGET | {"name": "member-2"}], "num_members": 1}
    recipe(plan=plan)
    with pytest.raises(ValidationError, match="'member-2' is reserved for a member"):
        recipe(plan=plan | {"num_members": 2})


def test_a_judge_that_is_not_installed_is_missed_at_once(monkeypatch):
    data = {"source": "files", "prompts": ["p"], "evaluation_prompts": ["e"]}
    files = data | {"reward_pairs": ["r"], "cost_pairs": ["c"]}
    asked = recipe(data=FileData.model_validate_json(json.dumps(files)))
    check_requirements(asked, STAGES)
    monkeypatch.setattr("tailguard.evaluation.judge_needs.has_encoder", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'tailguard\[judge\]'"):
        check_requirements(asked, STAGES)


def test_another_judge_needs_no_pairs(monkeypatch):
    data = {"source": "files", "prompts": ["p"], "evaluation_prompts": ["e"]}
    asked = recipe(data=FileData.model_validate_json(json.dumps(data)))
    with pytest.raises(InputError, match=r"data\.reward_pairs: none"):
        check_requirements(asked, {"evaluate"})
    monkeypatch.setitem(JUDGE_NEEDS, "published", JudgeNeeds())
    monkeypatch.setitem(JUDGE_OF_DATA, "files", "published")
    check_requirements(asked, {"evaluate"})


def test_distillation_alone_takes_a_per_prompt_target():
    target = TARGET | {"scope": "per_prompt"}
    check_requirements(recipe(plan={"targets": [target]}, train={"num_steps": 0}), STAGES)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("key", ["policy", "scorers"])
def test_a_device_that_is_not_here_is_told_first(no_gpu, key):
    with pytest.raises(InputError, match=rf"{key}\.device: cuda:1 is not here"):
        check_requirements(recipe(**{key: {"device": "cuda:1"}}), {"prepare"})


def test_what_was_made_on_one_device_is_used_on_another():
    here = recipe(policy={"device": "cpu"}, scorers={"device": "cpu"})
    there = recipe(policy={"device": "cuda:1"}, scorers={"device": "mps"})
    other = recipe(policy={"dtype": "bfloat16"})
    for stage in STAGES.values():
        assert stage.config(here) == stage.config(there) == stage.config(recipe())
    assert STAGES["sample"].config(other) != STAGES["sample"].config(here)
