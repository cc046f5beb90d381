"""Preference and prompt records, readers, splits."""

from tailguard.data.identity import prompt_id
from tailguard.data.read import read_preferences, read_prompts, read_rows
from tailguard.data.records import Preference, Prompt
from tailguard.data.splits import PromptSplits, split_prompts, with_prompts

__all__ = [
    "Preference",
    "Prompt",
    "PromptSplits",
    "prompt_id",
    "read_preferences",
    "read_prompts",
    "read_rows",
    "split_prompts",
    "with_prompts",
]
