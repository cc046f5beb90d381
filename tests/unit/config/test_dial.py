import pytest
from pydantic import ValidationError

from tailguard.config import Recipe
from tailguard.config.dial import DialSection


def test_what_is_certified_must_be_within_reach():
    with pytest.raises(ValidationError, match="certified_margin: 1 is below margin"):
        DialSection(certified_margin=1.0)
    assert DialSection(margin=1.0, certified_margin=1.0).certified_margin == 1.0


@pytest.mark.parametrize(
    ("floor", "said"),
    [
        ({"budget": "reference"}, "budget in numbers"),
        ({"reduction": 0.5}, "budget in numbers"),
        ({"budget": 0.0, "scope": "per_prompt"}, "no scope"),
        ({"budget": 0.0, "raters": "worst", "scope": "per_prompt"}, "scope pooled only"),
        ({"budget": 0.0, "raters": "all"}, "give each group's weight"),
        ({"budget": 0.0, "raters": {"carers": -1.0}}, "greater than or equal to 0"),
        ({"budget": 0.0, "measure": "var"}, "measure"),
        ({"budget": 0.0, "raters": {}}, "raters: empty"),
        ({"budget": 0.0, "raters": ""}, "raters: empty"),
        ({"budget": 0.0, "raters": {"carers": 0.0}}, "sum to 0"),
    ],
)
def test_a_floor_is_a_limit_in_numbers(floor, said):
    with pytest.raises(ValidationError, match=said):
        DialSection(floor=floor)
    kept = DialSection.model_validate({"floor": {"budget": 0.5, "raters": "worst"}}).floor
    assert kept is not None
    assert (kept.budget, kept.raters, kept.tail_mass) == (0.5, "worst", 0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "names raters, and none are fitted"),
        ({"scorers": {"raters": "annotator"}, "train": {"num_rounds": 1}}, "num_rounds"),
    ],
)
def test_targets_with_raters_need_them_fitted(changes, said):
    target = {"name": "each", "reduction": 0.5, "raters": "worst"}
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate({"plan": {"targets": [target]}} | changes)
    fitted = {"scorers": {"raters": "annotator"}, "plan": {"targets": [target]}}
    assert Recipe.model_validate(fitted).plan.targets[0].raters == "worst"
    with pytest.raises(ValidationError, match="takes no raters"):
        Recipe.model_validate(
            {"plan": {"targets": [{"name": "free", "measure": "none", "raters": "worst"}]}}
        )


def test_a_floor_above_every_cost_is_refused():
    with pytest.raises(ValidationError, match="would limit nothing"):
        Recipe.model_validate({"dial": {"floor": {"budget": 10.0}}})
