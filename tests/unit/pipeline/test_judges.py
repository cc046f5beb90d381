"""A run's judge is the one that its data ask for, fitted on the pairs set apart for it."""

import typing

import numpy as np
import pytest

from tailguard.config import FileData, Recipe, SandboxData
from tailguard.data import Preference
from tailguard.errors import InputError
from tailguard.evaluation import judge_needs, judges
from tailguard.evaluation.judges import Judge
from tailguard.pipeline import judges as pipeline_judges
from tailguard.pipeline.stage import Work, silent


class Length:
    """A judge of another kind, as a published classifier would be: longer is better and worse."""

    def score(self, prompts, responses):
        return np.array([[len(response)] for response in responses], dtype=np.float64)


@pytest.fixture
def work(tmp_path):
    data = FileData(source="files", num_judge_pairs=10, prompts=("p.jsonl",))
    recipe = Recipe(name="judged", data=data)
    return Work(recipe, tmp_path, tmp_path, {"prepare": tmp_path}, silent)


def set_apart(monkeypatch, rows):
    def read_pairs(directory, kind, role):
        return [Preference(f"{kind} {role} {i}", "a", "b", True, False) for i in range(rows[role])]

    monkeypatch.setattr(pipeline_judges, "read_pairs", read_pairs)


def test_every_source_of_data_has_a_judge():
    sources = {
        typing.get_args(data.model_fields["source"].annotation)[0]
        for data in (SandboxData, FileData)
    }
    assert set(judge_needs.JUDGE_OF_DATA) == sources


def test_the_sandbox_is_judged_by_its_truth(tmp_path):
    work = Work(Recipe(name="sandbox"), tmp_path, tmp_path, {}, silent)
    assert pipeline_judges.build_judge(work).name == "the sandbox's truth"


def test_another_judge_is_a_function_and_a_line_in_the_dict(work, monkeypatch):
    seen = {}

    def length_judge(inputs):
        seen.update({kind: inputs.pairs(kind) for kind in ("reward", "cost")})
        return Judge("length", Length(), Length(), is_refusal=lambda text: not text)

    monkeypatch.setitem(judges.JUDGES, "length", length_judge)
    monkeypatch.setitem(judge_needs.JUDGE_OF_DATA, "files", "length")
    set_apart(monkeypatch, {"judge-train": 12, "judge-validate": 1})
    judge = pipeline_judges.build_judge(work)
    assert judge.score(["p"], ["abc"])[0].tolist() == [3.0]
    train, held_out = seen["cost"]
    assert train.prompts == [f"cost judge-train {i}" for i in range(10)]  # num_judge_pairs
    assert held_out.prompts == ["cost judge-validate 0"]
    assert (train.higher[0], train.lower[0]) == ("b", "a")  # the riskier answer is higher
    assert seen["reward"][0].higher[0] == "a"  # the preferred answer is higher


@pytest.mark.parametrize("missing", ["judge-train", "judge-validate"])
def test_without_pairs_the_error_names_what_to_give(work, monkeypatch, missing):
    set_apart(monkeypatch, {"judge-train": 1, "judge-validate": 1} | {missing: 0})
    with pytest.raises(InputError, match=r"data\.reward_pairs and data\.cost_pairs"):
        pipeline_judges.build_judge(work)
