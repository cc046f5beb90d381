"""From a request to an answer: a dial of settings, answers drawn and scored, and served or withheld."""

from tailguard.decoding.decoder import Decoder, DialProfile, DrawSetting, ServedAnswer
from tailguard.decoding.dial import Dial, DialAnswer, DialCertificate, DialEntry
from tailguard.decoding.drawing import Scorers
from tailguard.decoding.joint import MeasuredPoint, RuleGrid, joint_table
from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import DrawPrior, Outcome, Rule, fit_prior, simulate
from tailguard.decoding.scoring import ScoreSummary
from tailguard.decoding.worth import AnswerWorth

__all__ = [
    "AnswerWorth",
    "Decoder",
    "Dial",
    "DialAnswer",
    "DialCertificate",
    "DialEntry",
    "DialProfile",
    "DrawPrior",
    "DrawSetting",
    "MeasuredPoint",
    "Outcome",
    "Pool",
    "Rule",
    "RuleGrid",
    "ScoreSummary",
    "Scorers",
    "ServedAnswer",
    "fit_prior",
    "joint_table",
    "simulate",
]
