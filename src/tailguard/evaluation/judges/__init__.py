"""Who judges: scores that took no part in training or selection.

To add a judge, write a function from `JudgeInputs` to `Judge` in a new file here, name it in `JUDGES`,
and say in `evaluation.judge_needs` what it needs and which runs get it.
"""

from collections.abc import Callable

from tailguard.evaluation.judges.judge import Judge, JudgeInputs
from tailguard.evaluation.judges.minilm import minilm_judge
from tailguard.evaluation.judges.truth import truth_judge

JUDGES: dict[str, Callable[[JudgeInputs], Judge | None]] = {
    "truth": truth_judge,
    "minilm": minilm_judge,
}
"""Name of a judge → builds it; None where the run lacks what it needs."""

__all__ = ["JUDGES", "Judge", "JudgeInputs"]
