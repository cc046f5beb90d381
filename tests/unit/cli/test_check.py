"""`tailguard check`: what it counts, what it refuses, and its exit status."""

import json

import numpy as np
import pytest

from tailguard.cli import main
from tailguard.lab.sandbox import base_policy_path
from tailguard.risk import risk_upper_bound
from tailguard.risk.cvar import CVaR


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def check(tmp_path, capsys):
    """Write a recipe on files and check it; what it printed and its status."""
    pairs = [{"prompt": f"how do i {k}", "chosen": "so", "rejected": "no"} for k in range(400)]
    signs = {"chosen_safe": True, "rejected_safe": False}
    (tmp_path / "reward.jsonl").write_text(lines(pairs))
    (tmp_path / "cost.jsonl").write_text(lines(pair | signs for pair in pairs[:20]))
    (tmp_path / "prompts.jsonl").write_text(lines({"prompt": f"what is {k}"} for k in range(60)))
    data = {
        "source": "files",
        "reward_pairs": ["reward.jsonl"],
        "cost_pairs": ["cost.jsonl"],
        "prompts": ["prompts.jsonl"],
        "num_prompts": 20,
        "num_calibration": 10,
        "num_certification": 30,
    }
    recipe = {"policy": {"model": str(base_policy_path()), "max_new_tokens": 4}, "data": data}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))

    def run(*overrides: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        sets = [part for item in overrides for part in ("--set", item)]
        with pytest.raises(SystemExit) as caught:
            main(["check", str(tmp_path / "recipe.yaml"), *sets, *options])
        assert isinstance(caught.value.code, int)
        out, err = capsys.readouterr()
        return caught.value.code, out + err

    return run


def test_it_counts_and_estimates(check):
    status, said = check("data.cost_pairs=[reward.jsonl]", options=("--json",))
    told = json.loads(said)
    assert (status, told["runnable"], told["last_stage"]) == (0, True, "plan")
    assert told["prompts"] == {
        "train": 20,
        "calibrate": 10,
        "certify": 30,
        "evaluate": 0,
        "benign": 0,
    }
    assert sum(told["pairs"]["reward"].values()) == 400
    assert list(told["stages"]) == ["fit-scorers", "sample", "bank"]
    for stage in told["stages"].values():
        assert stage["seconds"] > 0
        assert stage["num_tokens"] > 0
        assert stage["num_bytes"] > 1e8
    assert any("log-odds" in note for note in told["notes"])
    assert any("place the zero" in note for note in told["notes"])  # no labels in these pairs


def test_too_few_pairs_are_a_problem_before_anything_is_fitted(check):
    status, said = check()
    assert status == 2
    assert "problem: cost pairs: " in said
    assert "give more pairs" in said
    assert "ready" not in said


def test_every_problem_is_told_at_once(check):
    status, said = check(
        "scorers.cost_model=./nowhere",
        "policy.temperature=0.7",
        "train.prompts_per_step=21",
        "data.num_certification=31",
        options=("--until", "train"),
    )
    assert status == 2
    problems = [line for line in said.splitlines() if line.startswith("problem: ")]
    for part in (
        "nowhere: no such folder",
        "policy.temperature: 0.7",
        "train.prompts_per_step: 21 of 20",
        "plan.targets: none",
        "only 60 distinct ones are available",
    ):
        assert sum(part in line for line in problems) == 1, said
    assert len(problems) == 5


def test_a_published_scorers_budget_is_in_its_own_units(check, tiny_scorers, tmp_path):
    tiny_scorers.save_classifier(tmp_path / "r", seed=1)
    tiny_scorers.save_classifier(tmp_path / "c", seed=2)
    status, said = check(
        "scorers.reward_model=./r", "scorers.cost_model=./c", "scorers.pessimism=0.0"
    )
    assert status == 0
    assert f"budgets are in the units of {tmp_path}/c: " in said
    assert "ready: tailguard plan" in said


def test_the_outlook_on_certificates_is_the_bound_of_costs_that_are_all_below_the_threshold(check):
    def outlook(tail_mass, *options):
        overrides = (
            "data.cost_pairs=[reward.jsonl]",
            f"plan.targets=[{{name: a, tail_mass: {tail_mass}, reduction: 0.5}}]",
            "train.prompts_per_step=4",
        )
        status, said = check(*overrides, options=(*options, "--until", "calibrate"))
        assert status == 0, said
        return said

    half, tenth = (json.loads(outlook(mass, "--json"))["certificate"] for mass in (0.5, 0.1))
    assert half["confidence"] == tenth["confidence"] == pytest.approx(0.95)
    # The best that can be seen: 30 costs far below ν = 0, the largest cost there can be being 1.
    bound = risk_upper_bound(
        np.full(30, -5.0), CVaR(0.5), 0.0, upper=1.0, confidence=half["confidence"]
    )
    assert half["looseness"] == pytest.approx(bound, rel=0.1)
    # With α that small the bound says no more than the largest cost.
    assert half["smallest_tail_mass"] == pytest.approx(half["looseness"] * 0.5)
    assert tenth["looseness"] == pytest.approx(5 * half["looseness"])
    assert "nothing can be certified at α=0.05 on 30 prompts" in outlook(0.05)
    assert f"at α=0.5 the bound stands at least {half['looseness']:.0%} of the way" in outlook(0.5)


def test_what_is_odd_in_the_files_is_told(check, tmp_path):
    rows = [{"prompt": f"tell me all there is about the {k} old river towns"} for k in range(60)]
    near = {"prompt": rows[0]["prompt"] + " there"}
    (tmp_path / "prompts.jsonl").write_text(lines(rows))
    (tmp_path / "held.jsonl").write_text(lines([near]))
    pair = {"prompt": "again", "chosen": "so", "rejected": "so"}
    (tmp_path / "reward.jsonl").write_text(
        lines([*({"prompt": f"q{k}", "chosen": "so", "rejected": "no"} for k in range(400)), pair])
    )
    status, said = check("data.cost_pairs=[reward.jsonl]", "data.evaluation_prompts=[held.jsonl]")
    assert status == 0, said
    assert "have the same answer twice" in said
    assert "evaluate" in said.partition("note: ")[2]


def test_an_unknown_stage_is_named(check):
    status, said = check(options=("--until", "plann"))
    assert status == 2
    assert "--until plann: no such stage; give one of prepare, " in said
