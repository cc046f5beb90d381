"""From a request to an answer: candidates guided, scored, and served or withheld."""

from tailguard.decoding.acceptance import (
    AcceptanceChoice,
    accepted,
    choose_acceptance_level,
)
from tailguard.decoding.answer import Answer, Draft, draft_answers, settle_drafts
from tailguard.decoding.decoder import Decoder, GuidedPolicy
from tailguard.decoding.guidance import Candidate, Guidance, GuidedResponse
from tailguard.decoding.guide import guide_responses
from tailguard.decoding.profile import (
    CalibratedProfile,
    Certificate,
    DecodingSetting,
    match_profile,
)
from tailguard.decoding.scoring import ScoreSummary

__all__ = [
    "AcceptanceChoice",
    "Answer",
    "CalibratedProfile",
    "Candidate",
    "Certificate",
    "Decoder",
    "DecodingSetting",
    "Draft",
    "Guidance",
    "GuidedPolicy",
    "GuidedResponse",
    "ScoreSummary",
    "accepted",
    "choose_acceptance_level",
    "draft_answers",
    "guide_responses",
    "match_profile",
    "settle_drafts",
]
