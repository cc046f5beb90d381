"""Sampling and scoring are two stages: another scorer does not sample again."""

import pytest

from tailguard.artifacts import Header
from tailguard.config import Recipe
from tailguard.pipeline.chain import STAGES


def config_of(stage, recipe):
    return Header("kind", stage, 1, config=STAGES[stage].config(recipe)).id()


@pytest.mark.parametrize(
    "scorers", [{"pessimism": 0.7}, {"cost_bound": 4.0}, {"num_heads": 5}, {"max_tokens": 99}]
)
def test_a_key_of_the_scorers_leaves_the_answers(scorers):
    before, after = Recipe(), Recipe.model_validate({"scorers": scorers})
    assert config_of("sample", before) == config_of("sample", after)
    changed = [
        config_of(name, before) != config_of(name, after) for name in ("fit-scorers", "bank")
    ]
    assert any(changed)


def test_the_answers_depend_on_no_scorer():
    assert STAGES["sample"].parents == ("prepare",)
    assert set(STAGES["bank"].parents) == {"sample", "fit-scorers"}


@pytest.mark.parametrize(
    "sections", [{"bank": {"num_samples": 9}}, {"policy": {"temperature": 0.5}}]
)
def test_what_is_sampled_is_another_artifact(sections):
    assert config_of("sample", Recipe()) != config_of("sample", Recipe.model_validate(sections))
