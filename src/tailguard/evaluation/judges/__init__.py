"""Who judges: scores that took no part in training or selection.

To add a judge, write a function from `JudgeInputs` to `Judge` in a new file here, say in `JUDGES`
under a name how it is built and what it needs, and in `JUDGE_OF_DATA` which runs get it.
"""

from tailguard.evaluation.judges.judge import Judge, JudgeInputs, JudgeKind
from tailguard.evaluation.judges.minilm import minilm_judge, missing_encoder
from tailguard.evaluation.judges.truth import truth_judge

JUDGES: dict[str, JudgeKind] = {
    "truth": JudgeKind(truth_judge),
    "minilm": JudgeKind(minilm_judge, needs_pairs=True, missing=missing_encoder),
}

# The truth can parse only the sandbox's language, so data from files need another judge.
JUDGE_OF_DATA = {"sandbox": "truth", "files": "minilm"}
"""``data.source`` of a recipe → the name of its judge."""

__all__ = ["JUDGES", "JUDGE_OF_DATA", "Judge", "JudgeInputs", "JudgeKind"]
