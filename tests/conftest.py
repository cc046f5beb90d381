"""Shared test settings: threads set once, hypothesis without deadlines on shared machines."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other cost minutes

from hypothesis import settings

settings.register_profile("tailguard", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("tailguard")
