"""Recipes: what is wrong is named, with its line and the nearest valid key."""

from pathlib import Path

import pytest

from tailguard.config import FileData, Recipe, load_recipe
from tailguard.errors import InputError

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    def write(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return load_recipe(path, overrides)

    return write


@pytest.fixture
def message(recipe):
    def read(text: str, *overrides: str) -> str:
        with pytest.raises(InputError) as caught:
            recipe(text, *overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decoding: {pessimism: 0.0}\n", "is below scorers.pessimism (0.5)"),
        (
            "decoding: {fallback: ''}\n",
            "decoding.fallback: string should have at least 1 character",
        ),
        ("plan: {tail_masses: []}\n", "plan.tail_masses: "),
    ],
)
def test_what_could_not_be_certified_planned_or_said_is_refused(message, text, said):
    assert said in message(text)


def test_an_empty_recipe_is_the_default(recipe):
    assert recipe("") == recipe("# nothing\n") == Recipe()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_valid(path):
    assert load_recipe(path).name


def test_the_demo_is_valid():
    from importlib.resources import files

    assert load_recipe(Path(str(files("tailguard.config") / "demo.yaml"))).plan.targets


@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        ("name: a\nsede: 1\n", 2, "sede", "seed"),
        ("bank:\n  num_sample: 4\n", 2, "bank.num_sample", "num_samples"),
        ("bank: {num_samples: 4, bach_size: 2}\n", 1, "bank.bach_size", "batch_size"),
        (
            "plan:\n  targets:\n    - {name: a, reduction: 0.5}\n    - name: b\n      buget: 1\n",
            5,
            "plan.targets.1.buget",
            "budget",
        ),
        ("dial:\n  num_draws: 4\n  shears: [1]\n", 3, "dial.shears", "shares"),
        ("data:\n  source: sandbox\n  num_prompt: 4\n", 3, "data.num_prompt", "num_prompts"),
        (
            "data:\n  source: files\n  prompts: [a.jsonl]\n  cost_pair: []\n",
            4,
            "data.cost_pair",
            "cost_pairs",
        ),
        ("temperature: 1.0\n", 1, "temperature", "policy.temperature"),
        ("policy: {num_heads: 4}\n", 1, "policy.num_heads", "scorers.num_heads"),
    ],
)
def test_unknown_keys(message, text, line, key, nearest):
    found = message(text)
    assert f"recipe.yaml, line {line}: unknown key '{key}'" in found
    assert found.endswith(f"the nearest valid key is '{nearest}'")


def test_keys_of_the_other_source_are_not_suggested(message):
    found = message("data:\n  source: sandbox\n  judge_fraction: 0.2\n")
    assert "unknown key 'data.judge_fraction'" in found
    assert not found.endswith("'judge_fraction'")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("seed: yes\n", 1, "seed: input should be a valid integer (given: True)"),
        ("seed: -1\n", 1, "seed: input should be greater than or equal to 0 (given: -1)"),
        ("seed: 1.5\n", 1, "seed: input should be a valid integer"),
        ("name: a\nbank:\n  num_samples: '64'\n", 3, "bank.num_samples: input should be a valid"),
        ("bank: 3\n", 1, "bank: input should be a section of keys and values (given: 3)"),
        ("bank:\nname: a\n", 1, "bank: input should be a section of keys and values (given: None)"),
        ("policy: {temperature: .nan}\n", 1, "policy.temperature: input should be"),
        ("policy: {temperature: .inf}\n", 1, "policy.temperature: input should be a finite"),
        ("policy:\n  trust_remote_code: 1\n", 2, "policy.trust_remote_code: input should be a va"),
        ("plan: {tail_masses: [0.1, 1.5]}\n", 1, "plan.tail_masses.1: input should be less than"),
        ("plan: {tail_masses: 0.1}\n", 1, "plan.tail_masses: input should be a list"),
        (
            "plan:\n  targets:\n    - name: a\n      budget: low\n",
            4,
            "plan.targets.0.budget: input should be a valid number or 'reference' (given: 'low')",
        ),
        (
            "plan:\n  targets:\n    - {name: a, tail_mass: 0.1}\n",
            3,
            "plan.targets.0: give exactly one of budget and reduction",
        ),
        ("plan:\n  targets:\n    - {reduction: 1}\n", 3, "plan.targets.0.name: field required"),
        (
            "plan:\n  targets:\n    - {name: a, measure: cvar10, reduction: 1}\n",
            3,
            "plan.targets.0.measure: measure cvar10: give one of mean, cvar,",
        ),
        ("data: {num_prompts: 4}\n", 1, "data: give source: sandbox, or source: files"),
        ("name: a\ndata: {source: web}\n", 2, "data: input tag 'web'"),
        ("data: {source: files}\n", 1, "data.prompts: field required"),
        ("data: {source: files, prompts: [1]}\n", 1, "data.prompts.0: input should be a valid str"),
        ("policy: {model: ''}\n", 1, "policy.model: is empty; give a path or a name"),
        ("data: {source: files, prompts: ['']}\n", 1, "data.prompts.0: is empty; give a path"),
        ("1: 2\n", 1, "the key '1' is no text (!!int); put it in quotes"),
    ],
)
def test_ill_typed_values(message, text, line, said):
    found = message(text)
    assert said in found
    if line is not None:
        assert f"recipe.yaml, line {line}: " in found


def test_long_values_are_cut(message):
    assert len(message(f"seed: {'x' * 5000}\n")) < 250


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nseed: [1\n", "line 3: not YAML: "),
        ("name: a: b\n", "line 1: not YAML: mapping values are not allowed here"),
        ("name: a\n\tseed: 1\n", "line 2: not YAML: found character '\\t'"),
        (
            "a: !!python/object:os.system {}\n",
            "line 1: a: the tag !!python/object:os.system has no place",
        ),
        ("--- {}\n--- {}\n", "line 2: not YAML: but found another document"),
        ("- 1\n- 2\n", "line 1: a recipe is a mapping"),
        ("just words\n", "line 1: a recipe is a mapping"),
    ],
)
def test_what_is_not_a_recipe(message, text, said):
    assert said in message(text)


@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [
        ("seed: 1\nname: a\nseed: 2\n", 3, "seed", 1),
        ("bank:\n  num_samples: 4\n  batch_size: 8\n  num_samples: 8\n", 4, "num_samples", 2),
        ("bank: {num_samples: 4}\nbank: {batch_size: 8}\n", 2, "bank", 1),
        (
            "plan:\n  targets:\n    - name: a\n      reduction: 0.1\n      reduction: 0.9\n",
            5,
            "reduction",
            4,
        ),
    ],
)
def test_a_key_twice(message, text, line, key, first):
    assert f"line {line}: key '{key}' appears twice (first on line {first})" in message(text)


def test_anchors_are_no_repetition(recipe):
    text = "plan:\n  targets:\n    - &a {name: a, reduction: 0.5}\n    - {<<: *a, name: b}\n"
    names = [(target.name, target.reduction) for target in recipe(text).plan.targets]
    assert names == [("a", 0.5), ("b", 0.5)]


@pytest.mark.parametrize("number", ["2e-4", "2.0e-4", "0.0002", "+2E-4", "2.e-4"])
def test_numbers_as_people_write_them(recipe, number):
    assert recipe(f"train: {{learning_rate: {number}}}").train.learning_rate == 2e-4
    assert recipe("", f"train.learning_rate={number}").train.learning_rate == 2e-4


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot read it"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: dépôt".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: cannot read it"):
        load_recipe(tmp_path / "latin.yaml")


def test_overrides(recipe):
    found = recipe(
        "bank: {num_samples: 4}\nplan: {targets: [{name: a, reduction: 0.5}]}\n",
        "bank.num_samples=8",
        "bank.num_samples=16",
        "train.num_steps=0",
        "name=a = b",
        "plan.tail_masses=[0.1, 1]",
        "plan.targets.0.reduction=0.25",
    )
    assert found.bank.num_samples == 16  # the last one counts
    assert found.train.num_steps == 0
    assert found.name == "a = b"
    assert found.plan.tail_masses == (0.1, 1.0)
    assert found.plan.targets[0].reduction == 0.25


def test_an_override_fills_an_empty_section(recipe):
    assert recipe("bank:\n", "bank.num_samples=8").bank.num_samples == 8


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("bank.num_sample=8", "unknown key 'bank.num_sample'; the nearest valid key is 'num_sam"),
        ("bnak.num_samples=8", "unknown key 'bnak'; the nearest valid key is 'bank'"),
        ("num_samples=8", "unknown key 'num_samples'"),
        ("bank.num_samples=many", "bank.num_samples: input should be a valid integer (given: 'ma"),
        ("bank.num_samples=", "bank.num_samples: input should be a valid integer (given: None)"),
        ("bank=8", "bank: input should be a section"),
        ("plan.targets=[{nme: a, reduction: 1}]", "unknown key 'plan.targets.0.nme'"),
        ("seed.more=8", "'seed' is not a section"),
        ("seed.more.still=8", "'seed' is not a section"),
        ("plan.tail_masses.9=1", "'9' is not an index into a list of 1"),
        ("plan.tail_masses.x=1", "'x' is not an index into a list of 1"),
        ("plan.tail_masses.9.x=1", "'plan.tail_masses.9' is not a section"),
        ("bank.num_samples", "give key=value, e.g. --set bank.num_samples=32"),
        ("=8", "give key=value"),
        (".seed=8", "give key=value"),
        ("seed=[1", "not YAML: "),
        ("seed=2024-13-45", "input should be a valid integer (given: '2024-13-45')"),
    ],
)
def test_wrong_overrides(message, override, said):
    found = message("seed: 1\nplan: {tail_masses: [0.1]}\n", override)
    assert found.startswith(f"--set {override}: ")
    assert said in found


def test_an_error_in_the_file_is_not_blamed_on_an_override(message):
    found = message("bank: {batch_size: 0}\n", "bank.num_samples=8", "ban=1")
    assert found.startswith("--set ban=1: unknown key 'ban'")
    assert "line 1" in message("bank: {batch_size: 0}\n", "bank.num_samples=8")


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    (folder / "models" / "here").mkdir(parents=True)
    path = folder / "recipe.yaml"
    path.write_text(
        "policy: {model: ../lm}\n"
        "data: {source: files, root: data, prompts: [a.jsonl]}\n"
        "scorers: {reward_model: models/here, cost_model: owner/model, backbone: /abs/model}\n"
    )
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recipe = load_recipe(path)
    assert recipe.policy.model == str(tmp_path / "lm")
    assert isinstance(recipe.data, FileData)
    assert recipe.data.root == str(folder / "data")
    assert recipe.data.prompts == ("a.jsonl",)
    assert recipe.scorers.reward_model is not None
    assert recipe.scorers.cost_model is not None
    assert recipe.scorers.reward_model.model == str(folder / "models" / "here")
    assert recipe.scorers.cost_model.model == "owner/model"
    assert recipe.scorers.backbone == "/abs/model"
    moved = load_recipe(path, ["policy.model=~/lm", "data.root=~/data"])
    assert moved.policy.model == str(tmp_path / "home" / "lm")
    assert isinstance(moved.data, FileData)
    assert moved.data.root == str(tmp_path / "home" / "data")


def test_the_sandbox_is_no_path(tmp_path):
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "recipe.yaml").write_text("policy: {model: sandbox}\n")
    assert load_recipe(tmp_path / "recipe.yaml").policy.model == "sandbox"
