from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from tests.unit.conftest import TinyScorers
from tests.unit.scorers.test_classifier import encoder_tokenizer

from tailguard.errors import InputError
from tailguard.scorers.encoding import ScorerEncoding, encode_for_scoring

TINY = TinyScorers()


def words(tokenizer, ids):
    return tokenizer.decode(ids).split()


def test_what_fits_is_read_whole():
    tokenizer = TINY.tokenizer()
    ids = encode_for_scoring(tokenizer, ["w1 w2 w3"], ["good bad"], max_tokens=32)[0]
    assert words(tokenizer, ids) == [
        "<user>",
        "w1",
        "w2",
        "w3",
        "<assistant>",
        "good",
        "bad",
        "<end>",
    ]


def test_a_long_prompt_loses_its_beginning_and_no_mark():
    tokenizer = TINY.tokenizer()
    ids = encode_for_scoring(tokenizer, ["w1 w2 w3 w4 w5"], ["good bad"], max_tokens=7)[0]
    assert words(tokenizer, ids) == ["<user>", "w4", "w5", "<assistant>", "good", "bad", "<end>"]


def test_a_pair_that_is_too_long_keeps_the_tokenizers_own_tokens():
    tokenizer = encoder_tokenizer(0)
    rows = ScorerEncoding(tokenizer, 12, with_types=True).windows(["w1 " * 30], ["w2 " * 30])[0]
    assert len(rows) > 3
    for row in rows:
        shown = words(tokenizer, row.input_ids)
        assert (shown[0], shown.count("[SEP]"), shown[-1]) == ("[CLS]", 2, "[SEP]")
        assert row.token_type_ids is not None
        assert len(row.token_type_ids) == len(row) <= 12
        second = [w for w, t in zip(shown, row.token_type_ids, strict=True) if t == 1]
        assert set(second) == {"w2", "[SEP]"}


@given(st.integers(1, 120), st.integers(1, 60), st.integers(8, 32), st.booleans())
def test_windows_lose_nothing_of_an_answer(answer, prompt, max_tokens, templated):
    """Every two neighbours stand side by side in some window, and no window is too long."""
    tokenizer = TINY.tokenizer() if templated else encoder_tokenizer(0)
    text = [f"w{k % 40}" for k in range(answer)]
    encoding = ScorerEncoding(tokenizer, max_tokens)
    rows = encoding.windows(["w1 " * prompt], [" ".join(text)])[0]
    assert max(map(len, rows)) <= max_tokens
    shown = [" ".join(words(tokenizer, row.input_ids)) for row in rows]
    for pair in pairwise(text):
        assert any(" ".join(pair) in window for window in shown)
    assert text[0] in shown[0]
    assert text[-1] in shown[-1]


def test_a_window_without_room_is_refused():
    with pytest.raises(InputError, match="max_tokens: 3; has no room"):
        ScorerEncoding(TINY.tokenizer(), 3).windows(["w1 w2"], ["good bad"])


def test_an_empty_answer_is_read():
    for kind in ("pair", "response"):
        (rows,) = ScorerEncoding(TINY.tokenizer(), 8, kind).windows(["w1"], [""])
        assert len(rows[0]) >= 1
