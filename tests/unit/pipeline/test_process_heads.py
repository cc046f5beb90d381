import numpy as np

from tailguard.pipeline.process_heads import checkpoints_of


def test_answers_are_looked_at_on_their_way_and_never_at_the_last_token():
    assert checkpoints_of(np.array([12, 16, 20]), 64) == (8, 12, 16)
    # Where most run out of tokens, nothing is left to foresee at the end.
    assert checkpoints_of(np.full(9, 64), 64) == (32, 48, 63)
    assert checkpoints_of(np.ones(9), 1) == (1,)
