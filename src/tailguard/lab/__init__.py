"""Worlds whose truth is known: the exact lab and the sandbox assistant."""
