"""Recipes that the pages show can be loaded, and the one of docs/frontier.md runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from tailguard.artifacts import read_json
from tailguard.cli import main
from tailguard.config import FileData, Recipe, load_recipe
from tailguard.pipeline.requirements import check_requirements


@pytest.fixture(scope="module")
def recipes(blocks):
    return [block for block in blocks if block.language == "yaml"]


@pytest.fixture
def load(tmp_path):
    """A recipe as its page shows it, in a folder where the files that it names are there."""

    def load(block) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(block.text)
        recipe = load_recipe(path)
        data, scorers = recipe.data, recipe.scorers
        given = [s.local_model for s in (scorers.reward_model, scorers.cost_model) if s]
        for model in (recipe.policy.model, *given):
            if model.startswith(str(tmp_path)):
                Path(model).mkdir(exist_ok=True)
                for name in ("config.json", "model.safetensors"):
                    (Path(model) / name).touch()
        if isinstance(data, FileData):
            for name in (*data.reward_pairs, *data.cost_pairs, *data.prompts):
                (tmp_path / name.partition("?")[0]).touch()
        return recipe

    return load


def test_there_are_recipes_to_try(recipes):
    assert {block.page for block in recipes} >= {"docs/frontier.md", "docs/recipes.md"}


def test_each_can_be_loaded_and_planned(recipes, load):
    for block in recipes:
        check_requirements(load(block), {"prepare", "fit-scorers", "bank", "plan"})


def test_the_complete_example_has_what_every_stage_needs(recipes, load):
    """docs/recipes.md shows a recipe for the whole chain on the sandbox."""
    (block,) = [block for block in recipes if block.page == "docs/recipes.md"]
    check_requirements(load(block), {"train", "calibrate", "evaluate"})


def test_the_frontier_recipe_runs(recipes, tmp_path, tiny_scorers, capsys):
    """Everything as on the page, on tiny models, but for two sizes."""
    (block,) = [block for block in recipes if block.page == "docs/frontier.md"]
    recipe = tmp_path / "frontier.yaml"
    recipe.write_text(block.text)
    tiny_scorers.save_causal_lm(tmp_path / "my-chat-model", seed=0)
    tiny_scorers.save_classifier(tmp_path / "my-reward-model", seed=1)
    tiny_scorers.save_classifier(tmp_path / "my-cost-model", seed=2)
    data = load_recipe(recipe).data
    assert isinstance(data, FileData)
    enough = data.num_prompts + data.num_calibration + data.num_certification
    assert f"at least {enough}" in block.text
    words = np.random.default_rng(0).choice(tiny_scorers.words[:40], (enough, 6))
    rows = [json.dumps({"prompt": " ".join(row)}) for row in words]
    assert len(set(rows)) == enough
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    sizes = ["--set", "bank.num_samples=8", "--set", "policy.max_new_tokens=6"]
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(recipe), "--out", str(tmp_path / "out"), *sizes])
    out, err = capsys.readouterr()
    assert caught.value.code == 0, err
    made = tmp_path / "out" / read_json(tmp_path / "out" / "run.json")["Plan"]
    assert (made / "frontier.png").is_file()
    plan = read_json(made / "plan.json")
    assert {point["tail_mass"] for point in plan["frontier"]} == {0.02, 0.1, 1.0}
    for heading in ("tail mass α", "budget d", "reward", "CVaR", "KL", "multiplier λ", "effective"):
        assert heading in out
