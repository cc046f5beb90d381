"""Who judges: scores that took no part in training or selection.

To add a judge, write a function from `JudgeInputs` to `Judge` in a new file here and give it a name
in `JUDGES`; `JUDGE_OF_DATA` says which judge a run gets.
"""

from collections.abc import Callable

from tailguard.evaluation.judges.judge import Judge, JudgeInputs
from tailguard.evaluation.judges.minilm import minilm_judge
from tailguard.evaluation.judges.truth import truth_judge

JUDGES: dict[str, Callable[[JudgeInputs], Judge | None]] = {
    "truth": truth_judge,
    "minilm": minilm_judge,
}
"""Name → how that judge is built; it gives None where the run lacks what the judge needs."""

# The truth can parse only the sandbox's language, so data from files need another judge.
JUDGE_OF_DATA = {"sandbox": "truth", "files": "minilm"}
"""``data.source`` of a recipe → the name of its judge."""

__all__ = ["JUDGES", "JUDGE_OF_DATA", "Judge", "JudgeInputs"]
