"""OpenAI-compatible server over a decoder."""
