"""`tailguard plan` with a cost that is given: a published classifier, a function, an endpoint."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.scorers.fake_endpoint import serve_guard
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tailguard.artifacts import read_json, read_manifest
from tailguard.cli import main
from tailguard.errors import TailguardWarning
from tailguard.lab.sandbox import base_policy_path
from tailguard.pipeline.stages.bank import BANK_NAME, read_bank

RECIPE = """
policy: {model: sandbox, max_new_tokens: 12}
data: {source: files, prompts: [prompts.jsonl], num_prompts: 6, num_calibration: 2, num_certification: 2}
scorers: {reward_model: ./reward, max_tokens: 64}
bank: {num_samples: 4}
plan: {tail_masses: [0.5, 1.0], num_budgets: 2}
"""
FUNCTION = """
def cost(prompts, responses):
    return [0.1 * len(r.split()) - 0.5 for r in responses]

def silent(prompts, responses):
    return [float("nan")] * len(responses)

def of_the_prompt(prompts, responses):
    return [float(len(str(p))) for p in prompts]
"""


def save_classifier(path: Path, seed: int, num_labels: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            base_policy_path(), num_labels=num_labels
        )
    model.config.id2label = {k: ["safe", "unsafe", "odd"][k] for k in range(num_labels)}
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(base_policy_path()).save_pretrained(path)


@pytest.fixture
def plan(tmp_path, capfd, monkeypatch):
    """Run ``plan`` with a cost; its exit status, and the last line it said."""
    monkeypatch.setenv("TAILGUARD_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": f"how do i open the {w}"}
        for w in ["safe", "door", "box", "jar", "lid", "can", "tin", "bag"]
    ]
    more = [{"prompt": f"how do i bake the {w}"} for w in ["safe", "door", "box", "jar"]]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows + more))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "given_costs.py").write_text(FUNCTION)
    save_classifier(tmp_path / "reward", 0, 1)
    save_classifier(tmp_path / "cost", 1, 3)

    def run(cost: str, stage: str = "plan") -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([
                stage, str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"),
                "--set", f"scorers.cost_model={cost}",
            ])  # fmt: skip
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        assert isinstance(ended.value.code, int)
        return ended.value.code, (said.out if ended.value.code == 0 else said.err).splitlines()[-1]

    yield run
    sys.modules.pop("given_costs", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def bank(tmp_path):
    index = read_json(tmp_path / "out" / "run.json")
    return read_bank(tmp_path / "out" / index["SampleBank"] / BANK_NAME)


def test_plan_on_three_kinds_of_cost_samples_once(plan, tmp_path):
    status, said = plan("{model: ./cost, label: unsafe}")
    assert (status, (Path(said) / "frontier.png").is_file()) == (0, True)
    published = bank(tmp_path)

    assert plan("{python: 'given_costs:cost', upper: 2}")[0] == 0
    counted = bank(tmp_path)
    words = [0.1 * len(r.split()) - 0.5 for r in counted.responses]
    np.testing.assert_allclose(counted.cost, np.minimum(words, 2.0), atol=1e-9)

    with serve_guard(lambda text: len(text) / 10 - 3) as guard:
        cost = f"{{endpoint: '{guard.url}', model: guard, template: '{{prompt}}/{{response}}'}}"
        assert plan(cost)[0] == 0
        asked = [body["messages"][0]["content"] for body, _ in guard.requests]
    judged = bank(tmp_path)
    for prompt, response, found in zip(judged.prompts, judged.responses, judged.cost, strict=True):
        shown, alone = f"{prompt}/{response}", f"…/{response}"
        assert {shown, alone} <= set(asked)
        expected = max(len(shown), len(alone)) / 10 - 3
        assert found == pytest.approx(expected, abs=1e-6)

    assert published.responses == counted.responses == judged.responses
    names = [path.name.partition("-")[0] for path in (tmp_path / "out").iterdir()]
    assert (names.count("sample"), names.count("bank")) == (1, 3)


def test_a_cost_that_cannot_rank_answers_is_told(plan, tmp_path):
    assert plan("{python: 'given_costs:of_the_prompt', upper: 90}", "bank")[0] == 0
    found = read_manifest(tmp_path / "out" / read_json(tmp_path / "out" / "run.json")["SampleBank"])
    (line,) = [line for line in found.metrics["notes"] if line.startswith("cost")]
    assert "cannot rank the answers to a prompt" in line


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ("{model: ./cost}", "label: none given for 3 outputs; name the one to score: safe, unsafe"),
        ("{python: 'given_costs:silent'}", "python: given_costs:silent: 3 of 3 are not finite"),
        ("{python: 'given_costs:missing'}", "given_costs.py has no 'missing'"),
        ("{python: 'not_there:cost'}", "no module not_there in "),
    ],
)
def test_what_is_no_scorer_is_refused_before_anything_is_sampled(plan, tmp_path, cost, said):
    status, line = plan(cost)
    assert status == 2
    assert said in line
    assert not list((tmp_path / "out").glob("sample-*"))


def test_a_guard_that_gives_no_verdict_stops_the_run(plan, tmp_path):
    with serve_guard(lambda text: 0.0) as guard:
        guard.reply = {"choices": []}
        with pytest.warns(TailguardWarning, match="got no verdict"):
            status, line = plan(f"{{endpoint: '{guard.url}', model: guard}}")
    assert (status, "not finite" in line) == (2, True)
