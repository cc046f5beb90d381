"""Preference and prompt records, readers, splits."""

from tailguard.data.identity import prompt_id
from tailguard.data.near_duplicates import Overlap, describe_near_duplicates, find_near_duplicates
from tailguard.data.pair_faults import PairFaults, find_pair_faults
from tailguard.data.read import read_placed_preferences, read_preferences, read_prompts
from tailguard.data.records import Preference, Prompt
from tailguard.data.rows import read_rows
from tailguard.data.splits import PromptSplits, split_prompts, with_prompts

__all__ = [
    "Overlap",
    "PairFaults",
    "Preference",
    "Prompt",
    "PromptSplits",
    "describe_near_duplicates",
    "find_near_duplicates",
    "find_pair_faults",
    "prompt_id",
    "read_placed_preferences",
    "read_preferences",
    "read_prompts",
    "read_rows",
    "split_prompts",
    "with_prompts",
]
