"""Who produces tokens: prompts read once, caches forked and gathered, tokens drawn under one law.

`DecodingPolicy` and `Rows` (in ``stepping``) are the protocol; decoding and the pipeline know
nothing else about models.
"""

from tailguard.engines.logit_mix import LogitMix
from tailguard.engines.sample import Responses, sample_responses
from tailguard.engines.sampling_law import SamplingLaw, prompt_seeds
from tailguard.engines.self_test import tested_policy
from tailguard.engines.single_policy import EngineMode, SinglePolicy
from tailguard.engines.stepping import DecodingPolicy
from tailguard.engines.teacher_forcing import response_hidden_states, response_log_probs

__all__ = [
    "DecodingPolicy",
    "EngineMode",
    "LogitMix",
    "Responses",
    "SamplingLaw",
    "SinglePolicy",
    "prompt_seeds",
    "response_hidden_states",
    "response_log_probs",
    "sample_responses",
    "tested_policy",
]
