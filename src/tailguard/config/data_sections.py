"""Where a run's preferences and prompts come from: the sandbox, or files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tailguard.config.section import MOST, Count, Fraction, Names, PathName, Sample, Section

# The portfolio maps profiles on half of the prompts and measures regret on the other half, so 4
# prompts leave 2 in each: the fewest that have a spread.
_TrainingPrompts = Annotated[int, Field(ge=4, le=MOST)]


class SandboxData(Section):
    """How many preferences and prompts to draw from the sandbox assistant.

    Attributes:
        source: ``sandbox``.
        num_reward_pairs: helpfulness comparisons.
        num_cost_pairs: harm comparisons, with safe and unsafe signs.
        num_prompts: prompts to sample the bank from and to train on.
        num_calibration: prompts on which acceptance levels are chosen.
        num_certification: prompts on which certificates are computed.
        num_evaluation: prompts to evaluate on.
    """

    source: Literal["sandbox"] = "sandbox"
    num_reward_pairs: Count = 8000
    num_cost_pairs: Count = 8000
    num_prompts: _TrainingPrompts = 512
    num_calibration: Sample = 500
    num_certification: Sample = 2000
    num_evaluation: Sample = 2000


class FileData(Section):
    """Preferences and prompts in files, folders or datasets of the hub: see the page on data.

    Attributes:
        source: ``files``.
        root: folder that the file names below are relative to; itself relative to the recipe.
        reward_pairs: files of helpfulness comparisons. The reward scorer is fitted on them unless
            ``scorers.reward_model`` is given; ``evaluate`` always needs them, because its judge is
            fitted on a share of them.
        cost_pairs: files of harm comparisons, used in the same way for the cost.
        judge_fraction: share of the prompts of the pairs that is reserved for the judge; the scorers
            never see their pairs.
        num_judge_pairs: largest number of reward pairs, and of cost pairs, that the judge is fitted
            on and is checked on.
        prompts: files of prompts for the bank, training, calibration and certification. Prompts that
            are also in a pair or among the evaluation prompts are left out.
        num_prompts: number of them for the bank and for training.
        num_calibration: number of them to choose acceptance levels on.
        num_certification: number of them to certify on.
        evaluation_prompts: files of prompts to evaluate on; pairs on these prompts are excluded
            from training and from the judge.
        benign_prompts: files of prompts that deserve an answer; refusals are counted on them. A
            name may end in ``?field=value`` to keep only the rows with that value.
    """

    source: Literal["files"]
    root: PathName = "."
    reward_pairs: Names = ()
    cost_pairs: Names = ()
    judge_fraction: Fraction = 0.4
    num_judge_pairs: Annotated[int, Field(ge=10, le=MOST)] = 1000
    prompts: Names
    num_prompts: _TrainingPrompts = 512
    num_calibration: Sample = 500
    num_certification: Sample = 2000
    evaluation_prompts: Names = ()
    benign_prompts: Names = ()
