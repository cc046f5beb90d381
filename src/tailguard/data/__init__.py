"""Preference and prompt records, readers, splits."""
