"""Heads that no test changes."""

import pytest
import torch

from tailguard.values.process_heads import ProcessHeads


@pytest.fixture(scope="module")
def heads():
    return ProcessHeads(
        16,
        torch.linspace(-2, 2, 5),
        torch.tensor([0.1, 0.5, 0.9]),
        generator=torch.Generator().manual_seed(0),
    ).eval()
