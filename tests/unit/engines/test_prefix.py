"""States of answers under way against teacher forcing, and leaving rows off."""

import numpy as np
import pytest
import torch

from tailguard.engines import SamplingLaw, response_hidden_states
from tailguard.engines.draws import StartedPrompts
from tailguard.engines.prefix import PrefixWatch

PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8"]
POINTS = [(0.4, 0.6), (1.0, 0.0), (-0.5, 1.5)]


def started(soup, **options):
    return StartedPrompts(
        soup, PROMPTS, POINTS, max_new_tokens=9, law=SamplingLaw(), watched=True, **options
    )


@pytest.mark.parametrize("batch_size", [2, 64])
def test_states_are_means_of_those_that_teacher_forcing_gives(soup, batch_size):
    seen = {}

    def look(checkpoint, rows, states):
        seen.update({(checkpoint, int(r)): s for r, s in zip(rows, states, strict=True)})

    index = [0, 1, 2] * 6
    watched = started(soup, batch_size=batch_size)
    draws = watched.draw(index, list(range(18)), PrefixWatch((2, 5), look))
    assert watched.width == 2 * 16
    for row, (i, draw) in enumerate(zip(index, draws, strict=True)):
        for checkpoint, tokens in enumerate((2, 5)):
            # An answer that has ended is not shown, nor one whose last token that is.
            shown = len(draw.token_ids) > tokens
            assert ((checkpoint, row) in seen) == shown
            if not shown:
                continue
            [states] = response_hidden_states(
                soup.at(POINTS[i]), [PROMPTS[i]], [draw.token_ids], [list(range(tokens + 1))]
            )
            expected = torch.cat([states[0], states[1:].mean(dim=0)])
            np.testing.assert_allclose(seen[checkpoint, row], expected, atol=1e-4)
    assert any(len(draw.token_ids) <= 2 for draw in draws)


def test_watching_changes_nothing_and_leaving_off_only_the_rows_it_names(soup):
    index, seeds = [0, 1, 2] * 8, list(range(100, 124))
    plain = started(soup).draw(index, seeds)

    def every_third(checkpoint, rows, states):
        return rows % 3 == 0 if checkpoint else None

    some = started(soup).draw(index, seeds, PrefixWatch((1, 3), every_third))
    none = started(soup).draw(index, seeds, PrefixWatch((1, 3), lambda *_: None))
    assert [draw.token_ids for draw in none] == [draw.token_ids for draw in plain]
    left = 0
    for row, (whole, draw) in enumerate(zip(plain, some, strict=True)):
        off = row % 3 == 0 and len(whole.token_ids) > 3
        assert draw.left_off == off
        left += off
        assert draw.token_ids == whole.token_ids[: 3 if off else None]
        assert draw.finished == (whole.finished and not off)
        if off:
            assert draw.log_prob > whole.log_prob
        else:
            assert draw.log_prob == pytest.approx(whole.log_prob, abs=1e-5)
    assert left >= 3


def test_all_rows_may_be_left_off_at_once(soup):
    everything = PrefixWatch((1,), lambda _, rows, __: torch.ones(len(rows), dtype=torch.bool))
    draws = started(soup).draw([0, 1, 2], [1, 2, 3], everything)
    assert all(len(draw.token_ids) == 1 for draw in draws)
    assert all(draw.left_off or draw.finished for draw in draws)
