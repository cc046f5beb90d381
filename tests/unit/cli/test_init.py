"""`tailguard init`: the recipe that it writes is checked and runs, whatever the user has."""

import json

import numpy as np
import pytest

from tailguard.cli import main
from tailguard.config import FileData, load_recipe


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()  # what saving models said
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert isinstance(caught.value.code, int)
        out, err = capsys.readouterr()
        return caught.value.code, out + err

    return run


@pytest.fixture
def owned(tmp_path, tiny_scorers):
    """What a user has: a model, two classifiers, prompts, and pairs with and without labels."""
    tiny_scorers.save_causal_lm(tmp_path / "model")
    tiny_scorers.save_classifier(tmp_path / "reward", seed=1)
    tiny_scorers.save_classifier(tmp_path / "cost", seed=2)
    words = np.random.default_rng(0).choice(tiny_scorers.words[:40], (1200, 3))
    texts = list(dict.fromkeys(" ".join(row) for row in words))
    pair = {"chosen": "good help", "rejected": "bad harm"}
    (tmp_path / "prompts.jsonl").write_text(lines({"prompt": text} for text in texts[:60]))
    (tmp_path / "better.jsonl").write_text(lines({"prompt": t} | pair for t in texts[60:500]))
    signs = {"chosen_safe": True, "rejected_safe": False}
    safer = lines({"prompt": text} | pair | signs for text in texts[500:900])
    (tmp_path / "safer.jsonl").write_text(safer)
    return tmp_path


SCORERS = ("--reward", "reward", "--cost", "cost")


def test_with_given_scorers_it_is_checked_and_planned(command, owned):
    status, said = command("init", "--model", "model", "--prompts", "prompts.jsonl", *SCORERS)
    assert (status, said) == (0, "wrote recipe.yaml; next: tailguard check recipe.yaml\n")
    text = (owned / "recipe.yaml").read_text()
    assert "policy: {model: ./model, " in text
    assert "# 60 distinct prompts" in text
    recipe = load_recipe(owned / "recipe.yaml")
    data = recipe.data
    assert isinstance(data, FileData)
    assert (data.num_prompts, data.num_calibration, data.num_certification) == (24, 12, 24)
    assert [target.name for target in recipe.plan.targets] == ["unconstrained", "cvar"]
    status, said = command("check", "recipe.yaml")
    assert status == 0, said
    assert "ready: tailguard calibrate recipe.yaml" in said
    few = ["--set", "bank.num_samples=8", "--set", "policy.max_new_tokens=4"]
    status, said = command("plan", "recipe.yaml", *few)
    assert status == 0, said
    assert "tail mass α" in said


def test_pairs_are_sorted_by_their_labels(command, owned):
    files = ("--pairs", "safer.jsonl", "--pairs", "better.jsonl")
    status, said = command("init", "--model", "model", "--prompts", "prompts.jsonl", *files)
    assert status == 0, said
    data = load_recipe(owned / "recipe.yaml").data
    assert isinstance(data, FileData)
    assert data.cost_pairs == ("./safer.jsonl",)
    assert data.reward_pairs == ("./better.jsonl",)
    status, said = command("check", "recipe.yaml", "--json")
    told = json.loads(said)
    assert (status, told["problems"]) == (0, [])
    assert told["last_stage"] == "calibrate"
    assert sum(told["pairs"]["cost"].values()) == 400


def test_with_prompts_to_evaluate_on_everything_runs(command, owned):
    rows = lines({"prompt": f"w{k} w{k}"} for k in range(40))
    (owned / "held.jsonl").write_text(rows)
    files = ("--pairs", "safer.jsonl", "--pairs", "better.jsonl")
    held = ("--evaluation-prompts", "held.jsonl", "--out", "all.yaml")
    status, _ = command("init", "--model", "model", "--prompts", "prompts.jsonl", *files, *held)
    assert status == 0
    status, said = command("check", "all.yaml")
    assert status == 0, said
    assert "ready: tailguard run all.yaml" in said


def test_many_prompts_can_certify(command, owned):
    rows = lines({"prompt": f"w{k % 40} w{k // 40}"} for k in range(1000))
    (owned / "prompts.jsonl").write_text(rows)
    command("init", "--model", "model", "--prompts", "prompts.jsonl", *SCORERS)
    recipe = load_recipe(owned / "recipe.yaml")
    assert recipe.data.num_prompts + recipe.data.num_calibration < 1000 * 0.7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reward", "reward"], "--cost: no cost is given; "),
        (["--cost", "cost"], "--reward: no reward is given; "),
        (["--pairs", "better.jsonl"], "or give --pairs with safety labels"),
        ([*SCORERS, "--model", "nowhere/at/all"], "--model nowhere/at/all: no such folder"),
        ([*SCORERS, "--model", "owner/unknown"], "--model owner/unknown cannot be loaded: "),
        (["--reward", "reward", "--cost", "./nowhere"], "--cost ./nowhere: no such folder"),
        (["--reward", "r:f", "--cost", "cost"], "--reward: python: r:f: no module r"),
        ([*SCORERS, "--prompts", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        ([*SCORERS, "--pairs", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        ([*SCORERS, "--prompts", "few.jsonl"], "--prompts: 3 distinct prompts"),
        ([*SCORERS, "--prompts", "long.jsonl"], "leaves no room for an answer"),
        ([*SCORERS, "--out", "taken.yaml"], "--out taken.yaml: is there already"),
        ([*SCORERS, "--out", "nowhere/a.yaml"], "--out nowhere/a.yaml: no folder nowhere"),
        (["--reward", "reward", "--cost", "http://a/v1"], "--cost http://a/v1: write URL#MODEL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_it_cannot_use_is_named(command, owned, arguments, said):
    (owned / "few.jsonl").write_text(lines({"prompt": f"w{k}"} for k in range(3)))
    (owned / "long.jsonl").write_text(lines({"prompt": "w1 " * (60 + k)} for k in range(9)))
    (owned / "taken.yaml").write_text("mine")
    given = list(arguments)
    for name, usual in (("--model", "model"), ("--prompts", "prompts.jsonl")):
        given += [] if name in arguments else [name, usual]
    status, told = command("init", *given)
    assert status == 2
    assert said in told
    assert len(told.splitlines()) == 1
    assert (owned / "taken.yaml").read_text() == "mine"
    assert not (owned / "recipe.yaml").exists()


def test_force_overwrites(command, owned):
    (owned / "recipe.yaml").write_text("mine")
    status, _ = command(
        "init", "--model", "model", "--prompts", "prompts.jsonl", *SCORERS, "--force"
    )
    assert status == 0
    assert (owned / "recipe.yaml").read_text().startswith("# Written by `tailguard init`")


def test_a_recipe_elsewhere_names_paths_from_there(command, owned):
    (owned / "recipes").mkdir()
    out = ("--out", "recipes/mine.yaml")
    command("init", "--model", "model", "--prompts", "prompts.jsonl", *SCORERS, *out)
    assert "model: ../model" in (owned / "recipes" / "mine.yaml").read_text()
    status, said = command("check", "recipes/mine.yaml", "--until", "plan")
    assert status == 0, said
