"""Policies: loading them, and the text and tokens that they read."""

from tailguard.models.policy import (
    EncodedPrompts,
    Policy,
    encode_prompts,
    load_policy,
    render_chat,
    render_prompt,
)
from tailguard.models.quiet import quiet_transformers

__all__ = [
    "EncodedPrompts",
    "Policy",
    "encode_prompts",
    "load_policy",
    "quiet_transformers",
    "render_chat",
    "render_prompt",
]
