"""Recipe schemas. Torch-free."""

from tailguard.config.data_sections import FileData, SandboxData
from tailguard.config.dial import DialSection
from tailguard.config.evaluate import EvaluateSection
from tailguard.config.limits import UNCONSTRAINED, LimitSection, Target
from tailguard.config.load import load_recipe
from tailguard.config.recipe import (
    BankSection,
    DecodingSection,
    PlanSection,
    PolicySection,
    Recipe,
    ScorerSection,
    TrainSection,
)
from tailguard.config.scorer_source import ScorerSource
from tailguard.config.section import Section

__all__ = [
    "UNCONSTRAINED",
    "BankSection",
    "DecodingSection",
    "DialSection",
    "EvaluateSection",
    "FileData",
    "LimitSection",
    "PlanSection",
    "PolicySection",
    "Recipe",
    "SandboxData",
    "ScorerSection",
    "ScorerSource",
    "Section",
    "Target",
    "TrainSection",
    "load_recipe",
]
