"""Candidates on a KV cache, guidance, abstention."""
