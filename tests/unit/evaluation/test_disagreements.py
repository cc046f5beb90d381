"""Where groups differ most: the widest first, each text once."""

import numpy as np

from tailguard.evaluation.disagreements import disagreements
from tailguard.evaluation.judges import Judge


class Costs:
    def __init__(self, costs):
        self.costs = costs

    def score(self, prompts, responses):
        return np.array([self.costs[text] for text in responses])


def judge(**more):
    plain = Costs({})
    return Judge("a judge", plain, plain, lambda text: False, **more)


def test_the_widest_come_first_and_none_twice():
    costs = Costs({"a": [0.0, 1.0], "b": [3.0, 0.5], "c": [2.0, 2.0]})
    known = judge(raters=("carers", "traders"), rater_cost=costs)
    prompts = ["p", "q", [{"role": "user", "content": "r"}], "s"]
    found = disagreements(known, prompts, ["a", "b", "b", "c"])
    assert [each["text"] for each in found] == ["b", "a"]
    assert found[0]["costs"] == {"carers": 3.0, "traders": 0.5}
    assert found[0]["prompt"] == "q"
    assert len(disagreements(known, prompts, ["a", "b", "b", "c"], num=1)) == 1
    assert disagreements(judge(), prompts, ["a", "b", "b", "c"]) == []
