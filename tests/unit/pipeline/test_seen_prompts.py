"""What a decoder was fitted on, beside it."""

import pytest

from tailguard.data.table import write_table
from tailguard.errors import InputError
from tailguard.pipeline.seen_prompts import SEEN_NAME, read_seen_prompts, write_seen_prompts


def test_what_is_written_is_read(tmp_path):
    write_seen_prompts(tmp_path, {"b", "a"})
    assert read_seen_prompts(tmp_path) == {"a", "b"}


def test_ids_by_earlier_rules_are_not_compared(tmp_path):
    write_table(tmp_path / SEEN_NAME, {"prompt_id": ["a"]})
    with pytest.raises(InputError, match="run its recipe again"):
        read_seen_prompts(tmp_path)
