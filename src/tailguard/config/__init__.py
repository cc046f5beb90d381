"""Recipe schemas. Torch-free."""

from tailguard.config.load import load_recipe
from tailguard.config.recipe import (
    DecodingSection,
    EvaluateSection,
    FileData,
    Guided,
    PolicySection,
    Recipe,
    SandboxData,
    ScorerSection,
    Target,
    TrainSection,
    ValuesSection,
)

__all__ = [
    "DecodingSection",
    "EvaluateSection",
    "FileData",
    "Guided",
    "PolicySection",
    "Recipe",
    "SandboxData",
    "ScorerSection",
    "Target",
    "TrainSection",
    "ValuesSection",
    "load_recipe",
]
