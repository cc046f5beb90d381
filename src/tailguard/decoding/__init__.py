"""Candidates on a KV cache, guidance, abstention."""

from tailguard.decoding.acceptance import (
    AcceptanceChoice,
    accepted,
    choose_acceptance_level,
)
from tailguard.decoding.answer import Answer, Draft, ScoreSummary, draft_answers, settle_drafts
from tailguard.decoding.blockwise import guide_responses
from tailguard.decoding.decoder import Decoder, GuidedPolicy
from tailguard.decoding.engine import Responses, sample_responses
from tailguard.decoding.guidance import Candidate, Guidance, GuidedResponse
from tailguard.decoding.logit_mix import LogitMix
from tailguard.decoding.pessimism import PrefixScore, pessimistic_scorer
from tailguard.decoding.sampling import SamplingLaw, prompt_seeds
from tailguard.decoding.setting import (
    CalibratedProfile,
    Certificate,
    DecodingSetting,
    match_profile,
    name_measure,
)
from tailguard.decoding.stepping import DecodingPolicy, SinglePolicy
from tailguard.decoding.teacher_forcing import response_hidden_states, response_log_probs

__all__ = [
    "AcceptanceChoice",
    "Answer",
    "CalibratedProfile",
    "Candidate",
    "Certificate",
    "Decoder",
    "DecodingPolicy",
    "DecodingSetting",
    "Draft",
    "Guidance",
    "GuidedPolicy",
    "GuidedResponse",
    "LogitMix",
    "PrefixScore",
    "Responses",
    "SamplingLaw",
    "ScoreSummary",
    "SinglePolicy",
    "accepted",
    "choose_acceptance_level",
    "draft_answers",
    "guide_responses",
    "match_profile",
    "name_measure",
    "pessimistic_scorer",
    "prompt_seeds",
    "response_hidden_states",
    "response_log_probs",
    "sample_responses",
    "settle_drafts",
]
