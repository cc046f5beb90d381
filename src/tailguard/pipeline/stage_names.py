"""The stages by name and in order: the commands, and what each of them does in one line.

Free of imports, so that ``tailguard --help`` lists them without loading what they need.
"""

from __future__ import annotations

STAGE_SUMMARIES = {
    "prepare": "Read preferences and prompts, and split them by prompt.",
    "fit-scorers": "Fit the reward and cost ensembles, or check published ones.",
    "sample": "Sample answers of the reference policy.",
    "bank": "Score the sampled answers.",
    "plan": "Solve for the reward-tail frontier and the targets to train.",
    "train": "Train a LoRA policy towards each target.",
    "portfolio": "Draw and score answers at points of the trained policies' weight space.",
    "calibrate": "Choose soup, acceptance level and price together, and certify what is served.",
    "evaluate": "Measure every policy and decoder, with an independent judge.",
    "report": "Write the HTML report.",
}
"""Name of a stage → help of its command. `chain.STAGES` holds the stages themselves."""


def stages_up_to(last: str) -> list[str]:
    """The stage and all that stand before it: what it needs is among them."""
    names = list(STAGE_SUMMARIES)
    return names[: names.index(last) + 1]
