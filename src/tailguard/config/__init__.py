"""Recipe schemas. Torch-free."""

from tailguard.config.load import load_recipe
from tailguard.config.recipe import (
    UNCONSTRAINED,
    DecodingSection,
    EvaluateSection,
    FileData,
    Guided,
    LimitSection,
    PolicySection,
    Recipe,
    SandboxData,
    ScorerSection,
    Target,
    TrainSection,
    ValuesSection,
)

__all__ = [
    "UNCONSTRAINED",
    "DecodingSection",
    "EvaluateSection",
    "FileData",
    "Guided",
    "LimitSection",
    "PolicySection",
    "Recipe",
    "SandboxData",
    "ScorerSection",
    "Target",
    "TrainSection",
    "ValuesSection",
    "load_recipe",
]
