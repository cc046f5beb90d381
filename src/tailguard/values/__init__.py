"""Process reward and cost: what an answer's beginning predicts of the whole."""

from tailguard.values.heads import Foreseen, HeadData, ProcessHeads

__all__ = ["Foreseen", "HeadData", "ProcessHeads"]
