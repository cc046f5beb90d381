"""Seeding trainers that read the global generators, without the caller noticing."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Inside, the generators of random, NumPy and torch start at `seed`; after, they are as before.

    peft draws LoRA's first weights, and transformers' Trainer its batches and samples, from the
    global generators. This keeps that within the training call.
    """
    from transformers import set_seed

    legacy = cast(Any, np.random)
    # All three, because trainers use all three.
    python_state, numpy_state = random.getstate(), legacy.get_state()
    try:
        with cast(Any, torch.random).fork_rng():
            cast(Any, set_seed)(seed)
            yield
    finally:
        random.setstate(python_state)
        legacy.set_state(numpy_state)
