"""Recipes that mislead, attack or slip: one line each, with the line of the file and the key."""

import os
from pathlib import Path

import pytest

from tailguard.config import Recipe, load_recipe
from tailguard.errors import InputError

DEEP = "{a: " * 300 + "1" + "}" * 300
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    return said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("!!bool maybe", "'maybe' is no !!bool"),
        ("!!int four", "'four' is no !!int"),
        ("!!int 010", "'010' is no !!int"),
        ("!!float fast", "'fast' is no !!float"),
        ("!!null full", "'full' is no !!null"),
        ("!!timestamp today", "the tag !!timestamp has no place in a recipe"),
        ("!!timestamp 2024-01-01", "the tag !!timestamp"),
        ("!!binary aGk=", "the tag !!binary"),
        ("!!binary '%'", "the tag !!binary"),
        ("!!set {a, b}", "the tag !!set"),
        ("!!omap [a: 1]", "the tag !!omap"),
        ("!!python/name:os.system", "the tag !!python/name:os.system"),
        ("!!python/object/apply:os.system ['true']", "the tag !!python/object/apply:os.system"),
        ("!mine x", "the tag !mine"),
        ('"a\\0b"', r"holds the character '\x00'"),
        ('"a\\eb"', r"holds the character '\x1b'"),
        ('"\\ud800"', r"holds the character '\ud800'"),
        ("9" * 5000, "a number of 5000 characters"),
        ("1." + "0" * 400, "a number of 402 characters"),
    ],
)
def test_values_that_are_not_what_they_are_called(tmp_path, value, said):
    assert f"recipe.yaml, line 2: policy.model: {said}" in refusal(
        tmp_path, f"policy:\n  model: {value}\n"
    )
    assert f": {said}" in refusal(tmp_path, "", f"name={value}")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("false", "the key 'false' is no text (!!bool)"),
        ("7", "the key '7' is no text (!!int)"),
        ("2.5", "the key '2.5' is no text (!!float)"),
        ("~", "the key '~' is no text (!!null)"),
        ("? [a, b]\n  ", "the key '[…]' is no text (!!seq)"),
        ("? {a: b}\n  ", "the key '[…]' is no text (!!map)"),
        ("!!binary aGk=", "is no text (!!binary)"),
        ('"a\\nb"', r"the key 'a\nb' holds the character '\n'"),
    ],
)
def test_keys_that_are_no_text(tmp_path, key, said):
    found = refusal(tmp_path, f"seed: 1\nbank:\n  {key}: 4\n")
    assert "recipe.yaml, line 3: bank: the key" in found
    assert said in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "has more than 10000 values"),
        ("a: &a [*a]\n", "nested more than 20 levels deep"),
        ("a: &a {b: *a}\n", "nested more than 20 levels deep"),
        ("a: &a {<<: *a}\n", "nested more than 20 levels deep"),
        (DEEP, "nested"),
        ("[" * 5_000, "not YAML: nested too deeply"),
        ("bank: " + "{a: " * 22 + "1" + "}" * 22, "nested more than 20 levels deep"),
        ("a: *b\n", "line 1: not YAML: found undefined alias"),
        ("<<: 3\n", "line 1: not YAML: expected a mapping"),
        ("name: a\n" * 40_000, "has 320000 characters"),
        ("name: a\nseed: \x07\n", r"line 2: not YAML: the character '\x07' is not allowed"),
        ("name: a\0\n", r"line 1: not YAML: the character '\x00' is not allowed"),
        ("name: a\n...\n---\nname: b\n", "line 3: not YAML: but found another document"),
        ("%YAML 3.0\n---\nname: a\n", "line 1: not YAML: found incompatible YAML document"),
        (b"name: \xff\xfe\n", "cannot read it (not UTF-8 text"),
        ("name: a".encode("utf-16"), "cannot read it (not UTF-8 text"),
        ('"name: a', "line 1: not YAML: found unexpected end of stream"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_texts_that_multiply_nest_or_are_no_text(tmp_path, text, said):
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bank.num_samples", 10**21),
        ("bank.num_samples", 100_001),
        ("bank.batch_size", 10**6),
        ("policy.max_new_tokens", 10**8),
        ("scorers.num_heads", 10**6),
        ("scorers.num_pairs", 2**63),
        ("data.num_prompts", 10**9),
        ("data.num_certification", 10**8),
        ("plan.num_budgets", 101),
        ("plan.num_members", 10**6),
        ("train.rank", 10**6),
        ("train.num_steps", 10**9),
        ("dial.num_draws", 10**6),
        ("evaluate.num_prompts", 10**9),
        ("seed", 2**64),
        ("scorers.cost_bound", -5),
        ("scorers.cost_bound", 0),
        ("scorers.cost_bound", ".inf"),
        ("scorers.cost_bound", "1e400"),
        ("scorers.pessimism", ".nan"),
        ("policy.temperature", "1e-300"),
        ("train.learning_rate", "1e300"),
        ("plan.kl_coef", "-.inf"),
        ("decoding.confidence", 0.49),
        ("decoding.confidence", "1e-9"),
        ("decoding.confidence", 1),
        ("dial.levels", 10**6),
    ],
)
def test_numbers_that_nothing_can_hold_or_that_mean_nothing(tmp_path, key, value):
    section, _, name = key.rpartition(".")
    source = "  source: sandbox\n" if section == "data" else ""
    text = f"{section}:\n{source}  {name}: {value}\n" if section else f"\n{name}: {value}\n"
    line = text.count("\n")
    assert f"recipe.yaml, line {line}: {key}: input should be" in refusal(tmp_path, text)
    data = ("data.source=sandbox",) if section == "data" else ()
    assert f"--set {key}={value}: {key}: " in refusal(tmp_path, "", *data, f"{key}={value}")


def test_every_count_has_an_upper_limit():
    """Of a key that is added later, too."""

    def unlimited(schema, name):
        for key, value in schema.get("properties", {}).items():
            parts = [value, value.get("items", {}), *value.get("anyOf", [])]
            for part in parts:
                if part.get("type") == "integer" and "maximum" not in part:
                    yield f"{name}.{key}"

    schema = Recipe.model_json_schema()
    sections = {"Recipe": schema, **schema["$defs"]}
    assert [key for name, part in sections.items() for key in unlimited(part, name)] == []


@pytest.mark.parametrize("budget", [10.0, 12])
def test_a_budget_that_no_cost_can_exceed(tmp_path, budget):
    found = refusal(tmp_path, f"plan:\n  targets:\n    - {{name: a, budget: {budget}}}\n")
    assert f"line 3: plan.targets.0.budget: {budget:g} is not below scorers.cost_bound" in found


@pytest.mark.parametrize(
    "key", ["policy.model", "scorers.reward_model", "scorers.backbone", "data.root", "data.prompts"]
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("~nobody-here/lm", "there is no user 'nobody-here'"),
        ("./" + "x" * 300, "is longer than a path can be"),
        ("./" + "é" * 200, "is longer than a path can be"),  # counted in bytes
        ("x/" * 3000, "is longer than a path can be"),
    ],
)
def test_names_that_no_path_has(tmp_path, key, name, said):
    section, _, last = key.rpartition(".")
    data = "data:\n  source: files\n  prompts: [a.jsonl]\n"
    if last == "prompts":
        text, line, shown = data.replace("a.jsonl", f'"{name}"'), 3, f"{key}.0"
    elif section == "data":
        text, line, shown = f'{data}  {last}: "{name}"\n', 4, key
    else:
        text, line, shown = f'{section}:\n  {last}: "{name}"\n', 2, key
    assert f"recipe.yaml, line {line}: {shown}: {said}" in refusal(tmp_path, text)
    with pytest.raises(ValueError, match="holds the character"):
        Recipe.model_validate({"policy": {"model": "a\0b"}})


def test_links_in_a_circle(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    found = refusal(tmp_path, "policy:\n  model: ./loop\n")
    assert "recipe.yaml, line 2: policy.model: Symlink loop" in found


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a file"):
        load_recipe(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("plan.tail_masses.²=1", "'²' is not an index"),
        ("plan.tail_masses.٠=1", "'٠' is not an index"),
        (f"plan.tail_masses.{'9' * 5000}=1", "is not an index"),
        ("plan.tail_masses.-1=1", "'-1' is not an index"),
        ("bank.num_samples=!!bool x", "'x' is no !!bool"),
        ("bank=" + "[" * 5_000, "nested too deeply"),
        ("seed=\x00", "not YAML: the character '\\x00' is not allowed"),
    ],
    ids=lambda value: value[:24],
)
def test_overrides_of_the_same_kinds(tmp_path, override, said):
    found = refusal(tmp_path, "plan: {tail_masses: [0.1]}\n", override)
    assert found.startswith("--set ")
    assert said in found


def test_an_override_leaves_what_shared_a_value_alone(tmp_path):
    (tmp_path / "recipe.yaml").write_text("plan: {targets: [&t {name: a, reduction: 0.5}, *t]}\n")
    recipe = load_recipe(tmp_path / "recipe.yaml", ["plan.targets.1.name=b"])
    assert [target.name for target in recipe.plan.targets] == ["a", "b"]


def test_what_only_looks_like_a_number_or_a_date_is_text(tmp_path):
    for value in ("010", "0x10", "1:30", "2024-01-01", "1e", "=", "._"):
        (tmp_path / "recipe.yaml").write_text(f"name: {value}\n")
        assert load_recipe(tmp_path / "recipe.yaml").name == value


def test_the_line_of_a_key_that_overrides_a_merged_one(tmp_path):
    text = "plan:\n  targets:\n    - &a {name: a, reduction: 0.5}\n    - <<: *a\n      name: B\n"
    assert "recipe.yaml, line 5: plan.targets.1.name: " in refusal(tmp_path, text)
