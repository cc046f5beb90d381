import numpy as np
import pytest
import torch

import tailguard
from tailguard.errors import InputError, ScoreError
from tailguard.scorers.check import check_scorer
from tailguard.scorers.function import from_function, import_function


def lengths(prompts, responses):
    return [float(len(response)) for response in responses]


def test_a_function_is_a_scorer():
    scorer = tailguard.scorers.from_function(lengths, upper=4.0)
    assert scorer.score(["a", "b"], ["xx", "x" * 9]).tolist() == [[2.0], [4.0]]
    assert scorer.score([], []).shape == (0, 1)
    assert check_scorer(scorer, kind="cost").num_members == 1


def test_a_function_may_give_members_and_read_answers_alone():
    scorer = from_function(lambda answers: [[1, 2, 3]] * len(answers), input="response")
    assert scorer.score(["a"], ["b"]).tolist() == [[1.0, 2.0, 3.0]]


def raising(prompts, responses):
    raise KeyError("nothing\nhere")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raising, r"raising: KeyError: 'nothing"),
        (lambda p, r: None, "gave shape"),
        (lambda p, r: [1.0], r"gave shape \(1, 1\) for 2 answers"),
        (lambda p, r: [[]] * 2, "gave shape"),
        (lambda p, r: "ab", "ValueError"),
        (lambda p, r: [0.0, float("nan")], "not finite"),
        (lambda p, r: [None, 1.0], "not finite|TypeError"),
        (lambda r: [1.0], "TypeError"),
    ],
)
def test_a_function_that_gives_no_scores_is_a_score_error(function, said):
    with pytest.raises(ScoreError, match=said) as caught:
        from_function(function).score(["a", "b"], ["c", "d"])
    assert "\n" not in str(caught.value)


def test_members_are_those_that_were_declared():
    scorer = from_function(lengths, members=2)
    with pytest.raises(ScoreError, match=r"it must give \[1\] or \[1, 2\]"):
        scorer.score(["a"], ["b"])


def test_a_bound_is_a_number():
    with pytest.raises(InputError, match="upper: inf"):
        from_function(lengths, float("inf"))


class Stateful:
    def __call__(self, prompts, responses):
        self.calls = getattr(self, "calls", 0) + 1
        return np.full(len(responses), float(self.calls))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (Stateful(), "asked twice"),
        (lambda p, r: np.arange(len(r)) * 1.0, "one by one"),
        (lambda p, r: [float(len(r)) for _ in r], "one by one"),
        (lambda p, r: [1.0 / len(t) for t in r], "ZeroDivisionError"),
    ],
)
def test_a_function_that_cannot_be_relied_on_is_told_what_differs(function, said):
    with pytest.raises(ScoreError, match=said):
        check_scorer(from_function(function), kind="cost")


def test_a_function_is_imported_from_the_recipes_folder(tmp_path):
    package = tmp_path / "own_costs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "words.py").write_text(
        "def cost(prompts, responses):\n"
        "    from own_costs import later\n"
        "    return [later.COST] * len(responses)\n"
    )
    (package / "later.py").write_text("COST = 2.5\n")
    function = import_function("own_costs.words:cost", tmp_path)
    assert function(["a"], ["b"]) == [2.5]
    assert import_function("math:sqrt", tmp_path)(4) == 2.0  # of the environment


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module:cost", "no such module in"),
        ("broken_costs:cost", "its module fails in .*RuntimeError: not today"),
        ("plain_costs:price", "has no function 'price'"),
        ("plain_costs:NUMBER", "has no function 'NUMBER'"),
        ("random:cost", "another module of that name is loaded"),
    ],
)
def test_a_function_that_is_not_there_is_one_line(tmp_path, path, said):
    (tmp_path / "broken_costs.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "random.py").write_text("def cost(p, r): return [0.0]\n")
    folder = tmp_path
    if path.startswith("plain_costs"):
        folder = tmp_path / path.partition(":")[2]
        folder.mkdir()
        name = f"plain_costs_{folder.name}"
        (folder / f"{name}.py").write_text("NUMBER = 3\n")
        path = path.replace("plain_costs", name)
    with pytest.raises(InputError, match=said) as caught:
        import_function(path, folder)
    assert "\n" not in str(caught.value)


def test_a_function_cannot_change_what_others_are_asked():
    def spoil(prompts, responses):
        for prompt in prompts:
            prompt[0]["content"] = "nothing"
        prompts.clear()
        responses.clear()
        return [1.0]

    prompts, responses = [[{"role": "user", "content": "a"}]], ["b"]
    assert from_function(spoil).score(prompts, responses).tolist() == [[1.0]]
    assert prompts == [[{"role": "user", "content": "a"}]]
    assert responses == ["b"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_function_may_give_a_tensor_as_models_do(dtype):
    scorer = from_function(lambda p, r: torch.ones(len(r), dtype=dtype, requires_grad=True))
    assert scorer.score(["a", "b"], ["c", "d"]).tolist() == [[1.0], [1.0]]


def test_code_that_ends_the_process_ends_the_command_with_a_message(tmp_path):
    def leave(prompts, responses):
        raise SystemExit(0)

    with pytest.raises(ScoreError, match="SystemExit"):
        from_function(leave).score(["a"], ["b"])
    (tmp_path / "leaving_costs.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match=r"its module fails in .*SystemExit"):
        import_function("leaving_costs:cost", tmp_path)
