"""Directories with a manifest written last, and content hashes."""
