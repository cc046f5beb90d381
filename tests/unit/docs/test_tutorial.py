"""docs/tutorial.md, run as it stands on a tiny model: from prompts to the frontier to an answer."""

import json
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from tailguard.artifacts import read_json
from tailguard.cli import main
from tailguard.config import load_recipe

PAGE = "docs/tutorial.md"
# Everything is the page's but the sizes, which would take minutes.
SMALL = [
    "policy.max_new_tokens=6",
    "bank.num_samples=8",
    "train.num_steps=0",
    "train.distill_epochs=1",
    "dial.num_draws=3",
    "dial.shares=[0.0,1.0]",
    "dial.levels=3",
    "dial.num_certified=1",
]


@pytest.fixture(scope="module")
def commands(blocks) -> list[list[str]]:
    """The commands of the page, in order."""
    consoles = [b.text for b in blocks if b.page == PAGE and b.language == "console"]
    lines = "".join(consoles).replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:])[1:] for line in lines]


@pytest.fixture(scope="module")
def folder(blocks, tiny_scorers, tmp_path_factory) -> Path:
    """What the page says that the user has."""
    folder = tmp_path_factory.mktemp("tutorial")
    (functions,) = [b.text for b in blocks if b.page == PAGE and b.language == "python"]
    (folder / "my_scores.py").write_text(functions)
    tiny_scorers.save_causal_lm(folder / "my-model")
    words = np.random.default_rng(0).choice(tiny_scorers.words[:40], (100, 4))
    rows = [json.dumps({"prompt": " ".join(row)}) for row in words]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def said(commands, folder) -> dict[str, str]:
    """Command → what it printed; all but `serve`, which would not end."""
    printed: dict[str, str] = {}
    small = [part for key in SMALL for part in ("--set", key)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            if command[0] == "serve":
                continue
            stage = command[0] in ("check", "plan", "calibrate")
            with redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as ended:
                main([*command, *(small if stage else [])])
            printed[command[0]] = out.getvalue()
            assert ended.value.code == 0, command
    return printed


def test_the_steps_are_those_of_the_page(commands):
    steps = ["init", "check", "plan", "calibrate", "profiles", "generate", "serve"]
    assert [command[0] for command in commands] == steps


def test_the_recipe_takes_the_users_functions(said, folder):
    assert "next: tailguard check recipe.yaml" in said["init"]
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.scorers.cost_model is not None
    assert recipe.scorers.cost_model.python == "my_scores:harm"
    lines = (folder / "recipe.yaml").read_text().splitlines()
    assert 20 < len(lines) < 40  # "some thirty lines"


def test_the_check_tells_what_the_page_says(said):
    for part in ("stage", "tokens", "memory", "can certify", "budgets are in"):
        assert part in said["check"]
    assert "problem:" not in said["check"]
    assert said["check"].rstrip().endswith("ready: tailguard calibrate recipe.yaml")


def test_the_frontier_is_of_the_users_costs(said, folder):
    assert "none (base)" in said["plan"]
    made = folder / "out" / "mine"
    plan = read_json(made / read_json(made / "run.json")["Plan"] / "plan.json")
    assert -1.0 <= plan["reference"]["cvar_1.0"] <= 10.0  # 3^0 − 2 up to the declared largest cost


def test_the_dial_is_shown(said):
    assert "the dial" in said["profiles"]


def test_the_decoder_answers(said):
    (line,) = [text for text in said["generate"].splitlines() if text.startswith("{")]
    answer = json.loads(line)
    assert answer["abstained"] or answer["text"]
    assert answer["cost"] is None or answer["cost"]["mean"] >= -1.0


def test_the_budgets_of_the_page_fit_into_the_recipe(blocks, folder, said):
    (shown,) = [b.text for b in blocks if b.page == PAGE and b.language == "yaml"]
    changed = folder / "changed.yaml"
    changed.write_text(shown)
    recipe = load_recipe(changed)
    assert [target.budget for target in recipe.plan.targets] == [None, 1.5]
