"""Scorers that a recipe gives: what goes together, and what they decide for other keys."""

from pathlib import Path

import pytest

from tailguard.config import load_recipe
from tailguard.errors import InputError


def load(tmp_path: Path, text: str):
    (tmp_path / "recipe.yaml").write_text(text)
    return load_recipe(tmp_path / "recipe.yaml")


def cost(tmp_path: Path, given: str, rest: str = ""):
    return load(tmp_path, f"scorers:\n  cost_model: {given}\n{rest}")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("owner/model", "model"),
        ("{model: owner/model, label: unsafe, input: response}", "model"),
        ("{python: 'package.module:cost', upper: 10}", "python"),
        ("{endpoint: 'https://guard.example/v1', model: guard, key_env: KEY}", "endpoint"),
    ],
)
def test_a_single_member_has_no_pessimism_unless_it_is_asked_for(tmp_path, given, kind):
    recipe = cost(tmp_path, given)
    assert recipe.scorers.cost_model is not None
    assert recipe.scorers.cost_model.kind == kind
    assert recipe.scorers.pessimism == recipe.decoding.pessimism == 0.0
    for asked in ("  pessimism: 0.5\n", "decoding: {pessimism: 0.5}\n"):
        with pytest.raises(InputError, match=r"pessimism: 0.5 needs a cost of several members"):
            cost(tmp_path, given, asked)


def test_pessimism_of_an_ensemble_stays(tmp_path):
    for text in ("", "scorers: {reward_model: owner/model}\n"):
        recipe = load(tmp_path, text)
        assert (recipe.scorers.pessimism, recipe.decoding.pessimism) == (0.5, 1.0)
    recipe = cost(tmp_path, "{python: 'a.b:c', members: 3}")
    assert (recipe.scorers.pessimism, recipe.decoding.pessimism) == (0.5, 1.0)


def test_the_largest_cost_is_said_once(tmp_path):
    given = "{python: 'a:b', upper: 4}"
    assert cost(tmp_path, given).scorers.cost_bound == 4.0
    assert cost(tmp_path, given, "  cost_bound: 4.0\n").scorers.cost_bound == 4.0
    with pytest.raises(InputError, match=r"cost_bound: 5 contradicts cost_model.upper: 4"):
        cost(tmp_path, given, "  cost_bound: 5.0\n")


def test_folders_are_the_recipes(tmp_path):
    source = cost(tmp_path, "{python: 'a:b', folder: code}").scorers.cost_model
    assert source is not None
    assert source.folder == str(tmp_path / "code")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{python: 'a.b'}", "scorers.cost_model.python: write package.module:function"),
        ("{python: 'a b:c'}", "write package.module:function"),
        ("{endpoint: guard, model: g}", "scorers.cost_model.endpoint: write a URL"),
        (
            "{endpoint: 'https://me:key@there/v1', model: g}",
            "endpoint: write a URL without password",
        ),
        (
            "{endpoint: 'https://there/v1?key=k', model: g}",
            "endpoint: write a URL without password",
        ),
        ("{endpoint: 'http://guard/v1'}", "needs the name of its model"),
        ("{endpoint: 'http://guard/v1', model: g, label: a}", "label: does not go with endpoint"),
        ("{python: 'a:b', endpoint: 'http://guard/v1'}", "give one of model, python and endpoint"),
        ("{label: a}", "give a model, a python function or an endpoint"),
        ("{model: a, template: x}", "template: does not go with model"),
        (
            "{endpoint: 'http://g/v1', model: g, template: 'safe?'}",
            r"template: holds no \{response\}",
        ),
        ("{model: a, labl: x}", "unknown key 'scorers.cost_model.labl'; .* 'label'"),
        ("[a]", "input should be a section"),
        ("{model: 3}", "scorers.cost_model.model: input should be a valid string"),
    ],
)
def test_what_does_not_go_together_is_named_with_its_line(tmp_path, given, said):
    with pytest.raises(InputError, match=said) as caught:
        cost(tmp_path, given)
    assert "line 2" in str(caught.value)


def test_answers_longer_than_the_scorers_read_are_refused(tmp_path):
    long = "policy: {max_new_tokens: 300}\n"
    with pytest.raises(InputError, match=r"max_new_tokens: 300 is more than the scorers read"):
        load(tmp_path, long)
    function = "{python: 'a:b'}"
    load(tmp_path, f"{long}scorers: {{cost_model: {function}, reward_model: {function}}}\n")


def test_raters_are_fitted_with_the_cost(tmp_path):
    assert load(tmp_path, "scorers: {raters: category}\n").scorers.raters == "category"
    with pytest.raises(InputError, match="raters: are fitted with the cost"):
        cost(tmp_path, "owner/model", "  raters: annotator\n")
    with pytest.raises(InputError, match="raters"):
        load(tmp_path, "scorers: {raters: people}\n")
