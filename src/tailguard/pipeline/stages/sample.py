"""``sample``: answers of the reference policy → SampledAnswers. Scores are joined to them by ``bank``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tailguard.config import Recipe
from tailguard.data import Prompt, prompt_id
from tailguard.data.table import write_table
from tailguard.engines import sample_responses
from tailguard.models.policy import Policy
from tailguard.pipeline.sources import load_reference, policy_input
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.prepare import read_split

ANSWERS_NAME = "answers.parquet"


def _config(recipe: Recipe) -> dict[str, object]:
    return {
        "bank": recipe.bank.model_dump(),
        # The policy's name is left out: `policy_input` gives the hash of its files, so that answers
        # are kept when the model's folder is moved and drawn again when its files change.
        "policy": recipe.policy.model_dump(exclude={"model"}),
    }


def _build(work: Work) -> dict[str, object]:
    recipe = work.recipe
    policy = load_reference(recipe)
    prompts = read_split(work.parents["prepare"], "train")
    answers = draw_answers(
        policy, prompts, num_samples=recipe.bank.num_samples, work=work, purpose="bank"
    )
    write_table(work.directory / ANSWERS_NAME, answers)
    return answer_figures(answers)


STAGE = Stage("sample", "SampledAnswers", 2, ("prepare",), _config, policy_input, _build)


def draw_answers(
    policy: Policy, prompts: Sequence[Prompt], *, num_samples: int, work: Work, purpose: str
) -> dict[str, Sequence[Any]]:
    """``num_samples`` answers per prompt, prompt by prompt.

    Returns:
        Columns, an entry per answer: ``prompt_index`` (number of its prompt), ``prompt_id``,
        ``prompt`` (as JSON), ``response``, ``token_ids``, ``finished`` (ended by itself and not at
        the length limit) and ``log_prob`` (under the policy and temperature that drew it).
    """
    settings = work.recipe
    drawn = sample_responses(
        policy,
        prompts,
        num_samples=num_samples,
        max_new_tokens=settings.policy.max_new_tokens,
        temperature=settings.policy.temperature,
        generator=torch.Generator().manual_seed(work.seed(purpose)),
        batch_size=settings.bank.batch_size,
        on_progress=work.steps(f"{purpose}: sampling"),
    )
    index: list[int] = np.asarray(drawn.prompt_index).tolist()
    asked = [prompts[i] for i in index]
    tokens, lengths = np.asarray(drawn.token_ids), np.asarray(drawn.lengths)
    return {
        "prompt_index": index,
        "prompt_id": [prompt_id(prompt) for prompt in asked],
        # Parquet has one type per column, and a prompt is a text or a list of messages: JSON.
        "prompt": [json.dumps(prompt) for prompt in asked],
        "response": list(drawn.texts),
        "token_ids": [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)],
        "finished": np.asarray(drawn.finished).tolist(),
        "log_prob": np.asarray(drawn.log_probs, dtype=np.float64).tolist(),
    }


def answer_figures(answers: Mapping[str, Sequence[Any]]) -> dict[str, object]:
    """Figures of `draw_answers`."""
    num_prompts = max(answers["prompt_index"]) + 1
    return {
        "num_prompts": num_prompts,
        "num_samples": len(answers["prompt_index"]) // num_prompts,
        "num_tokens": sum(map(len, answers["token_ids"])),
    }
