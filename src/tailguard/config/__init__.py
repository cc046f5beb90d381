"""Recipe schemas. Torch-free."""

from tailguard.config.data_sections import FileData, SandboxData
from tailguard.config.dial import DialSection
from tailguard.config.evaluate import EvaluateSection
from tailguard.config.limits import UNCONSTRAINED, Guided, LimitSection, Target
from tailguard.config.load import load_recipe
from tailguard.config.recipe import (
    BankSection,
    DecodingSection,
    PlanSection,
    PolicySection,
    Recipe,
    ScorerSection,
    TrainSection,
    ValuesSection,
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
    "Guided",
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
    "ValuesSection",
    "load_recipe",
]
